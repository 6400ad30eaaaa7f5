//! A catalog's text inside a ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;

use crate::reason::AcceptedReason;

/// The key that is read when there are several.
const KEY: &str = "catalog.yaml";

/// Why a ConfigMap holds no catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigMapError {
    /// There is no text in it.
    #[error("the ConfigMap holds no text; put the catalog under the key {KEY}")]
    Empty,
    /// There are several, none of them named so that the choice is clear.
    #[error(
        "the ConfigMap has {keys} keys and none is {KEY}; rename the one that holds the catalog"
    )]
    Ambiguous {
        /// How many.
        keys: usize,
    },
}

impl ConfigMapError {
    /// The reason that the Accepted condition gives.
    pub fn reason(self) -> AcceptedReason {
        AcceptedReason::ConfigMapNotFound
    }
}

/// The catalog's text: key `catalog.yaml`, else the only key.
pub fn text_in(map: &ConfigMap) -> Result<&str, ConfigMapError> {
    let data = map.data.as_ref().ok_or(ConfigMapError::Empty)?;
    if let Some(text) = data.get(KEY) {
        return Ok(text);
    }
    let mut values = data.values();
    match (values.next(), values.len()) {
        (Some(text), 0) => Ok(text),
        (Some(_), _) => Err(ConfigMapError::Ambiguous { keys: data.len() }),
        (None, _) => Err(ConfigMapError::Empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(keys: &[&str]) -> ConfigMap {
        ConfigMap {
            data: Some(
                keys.iter()
                    .map(|k| ((*k).into(), format!("in {k}")))
                    .collect(),
            ),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn the_named_key_else_the_only_one() {
        assert_eq!(text_in(&map(&["a", KEY])), Ok("in catalog.yaml"));
        assert_eq!(text_in(&map(&["images"])), Ok("in images"));
        assert_eq!(
            text_in(&map(&["a", "b"])),
            Err(ConfigMapError::Ambiguous { keys: 2 })
        );
        assert_eq!(text_in(&map(&[])), Err(ConfigMapError::Empty));
        assert_eq!(text_in(&ConfigMap::default()), Err(ConfigMapError::Empty));
    }
}
