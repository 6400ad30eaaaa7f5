//! Conditions as `kubectl wait` and `kubectl describe` expect them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{Schema, SchemaGenerator};

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// The condition holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell yet.
    Unknown,
}

impl Truth {
    /// The word in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Makes a condition, keeping the transition time of `previous` while the status stays the same,
/// as the API conventions ask.
pub fn next(
    previous: &[Condition],
    type_: &str,
    status: Truth,
    reason: &str,
    message: impl Into<String>,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let last_transition_time = find(previous, type_)
        .filter(|c| c.status == status.as_str())
        .map_or_else(|| Time::from(now), |c| c.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation,
        last_transition_time,
    }
}

/// The condition of that type, if present.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Schema of a `conditions` list: a map list by type.
pub(crate) fn list_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<Vec<Condition>>();
    let object = schema.ensure_object();
    object.insert("x-kubernetes-list-type".into(), "map".into());
    object.insert(
        "x-kubernetes-list-map-keys".into(),
        serde_json::json!(["type"]),
    );
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let first = next(&[], "Accepted", Truth::True, "Resolved", "", None, at(1));
        let same = next(
            std::slice::from_ref(&first),
            "Accepted",
            Truth::True,
            "Other",
            "",
            None,
            at(2),
        );
        assert_eq!(same.last_transition_time, first.last_transition_time);
        let flipped = next(
            &[same],
            "Accepted",
            Truth::False,
            "InvalidVersion",
            "",
            None,
            at(3),
        );
        assert_eq!(flipped.last_transition_time, Time::from(at(3)));
    }
}
