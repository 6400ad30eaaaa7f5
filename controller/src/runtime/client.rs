//! How the API server is asked: once.

use kube::{Client, Config};

/// A client that sends a request once and gives the answer, whatever it is.
///
/// Left to itself kube's client repeats what was answered by 429, 503 or 504, for many seconds. A
/// write repeated like that goes out long after leadership was asked for it, beyond the end of a
/// Lease; and what refuses it for now (a disruption budget, an overloaded API server) stays unseen.
/// Whoever asks in this program has a pause and another try of its own.
pub(super) fn asking_once(mut config: Config) -> kube::Result<Client> {
    config.default_retry = false;
    Client::try_from(config)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use kube::{
        Api,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    };
    use monok8s_api::OSUpgradeProgress;
    use serde_json::json;
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// An API server that answers every request with this status; counts them.
    async fn answering(status: &'static str) -> (Config, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reader, mut writer) = stream.into_split();
                let mut lines = BufReader::new(reader).lines();
                while lines
                    .next_line()
                    .await
                    .is_ok_and(|l| l.is_some_and(|l| !l.is_empty()))
                {}
                count.fetch_add(1, Ordering::SeqCst);
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: 0\r\nRetry-After: 0\r\nConnection: close\r\n\r\n"
                );
                writer.write_all(answer.as_bytes()).await.ok();
            }
        });
        (
            Config::new(format!("http://{address}").parse().unwrap()),
            asked,
        )
    }

    #[tokio::test]
    async fn what_is_refused_for_now_is_not_sent_again_by_itself() {
        for status in [
            "429 Too Many Requests",
            "503 Service Unavailable",
            "504 Gateway Timeout",
        ] {
            let (config, asked) = answering(status).await;
            let client = asking_once(config).unwrap();
            let progresses: Api<OSUpgradeProgress> = Api::all(client);
            let release = Patch::Merge(json!({"spec": {"release": "Reboot"}}));
            let progress: OSUpgradeProgress = serde_json::from_value(json!({
                "apiVersion": "monok8s.io/v1alpha1", "kind": "OSUpgradeProgress",
                "metadata": {"name": "p"},
                "spec": {"sourceRef": {"name": "up"}, "nodeName": "n"},
            }))
            .unwrap();
            let patched = progresses
                .patch("p", &PatchParams::default(), &release)
                .await;
            let deleted = progresses.delete("p", &DeleteParams::default()).await;
            let created = progresses.create(&PostParams::default(), &progress).await;
            let listed = progresses.list(&ListParams::default()).await;
            assert!(patched.is_err() && deleted.is_err() && created.is_err() && listed.is_err());
            assert_eq!(asked.load(Ordering::SeqCst), 4, "{status}");
        }
    }
}
