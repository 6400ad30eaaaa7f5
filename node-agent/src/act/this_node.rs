//! Which Node this machine is: a Node that is deleted and made again has another UID.

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt as _};
use tracing::{info, warn};

use crate::act::{calls, objects::Objects};

/// Asks which Node this machine is.
#[derive(Clone)]
pub struct ThisNode {
    nodes: Api<Node>,
    name: String,
    objects: Objects,
}

impl std::fmt::Debug for ThisNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThisNode({})", self.name)
    }
}

impl ThisNode {
    /// The Node called `name`; what it is goes into `objects`.
    pub fn new(client: Client, name: &str, objects: Objects) -> Self {
        Self {
            nodes: Api::all(client),
            name: name.to_owned(),
            objects,
        }
    }

    /// Asks for its UID. When there is no answer it is not known any more.
    pub async fn ask(&self) -> Option<String> {
        let answer = calls::limited(self.nodes.get_opt(&self.name)).await;
        let uid = match answer {
            Ok(Some(node)) => node.uid(),
            Ok(None) => {
                warn!("there is no Node {}", self.name);
                None
            }
            Err(e) => {
                warn!("the Node {} could not be read: {e}", self.name);
                None
            }
        };
        let before = self.objects.set_node_uid(uid.clone());
        if let (Some(before), Some(now)) = (before, &uid)
            && before != *now
        {
            info!(
                "the Node {} was made again: its UID was {before} and is {now}",
                self.name
            );
        }
        uid
    }
}
