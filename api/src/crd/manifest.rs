//! A CRD as a file in `manifests/crds/`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

const HEADER: &str = "# Generated from api/src by `cargo run -p monok8s-api --example crds -- manifests/crds`.\n\
                      # Edit the types there, not this file; a test compares.\n";

/// The YAML of one CRD, with a header that says where it comes from.
pub fn manifest(crd: &CustomResourceDefinition) -> Result<String, ManifestError> {
    let mut value = serde_json::to_value(crd)?;
    whole_numbers(&mut value);
    Ok(format!("{HEADER}{}", serde_yaml::to_string(&value)?))
}

/// A CRD could not be written. Cannot happen for the ones in this crate; a test writes them all.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// As JSON.
    #[error("cannot write the CRD as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// As YAML.
    #[error("cannot write the CRD as YAML: {0}")]
    Yaml(#[from] serde_yaml::ser::Error),
}

/// Bounds are floating-point numbers in the CRD's types; `minimum: 1` reads better than `1.0`.
fn whole_numbers(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number
                .as_f64()
                .filter(|f| f.fract() == 0.0 && f.abs() < EXACT)
            {
                #[allow(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
                let whole = float as i64;
                *number = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(entries) => entries.values_mut().for_each(whole_numbers),
        _ => {}
    }
}
