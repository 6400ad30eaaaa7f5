//! The registry that a daemon's metrics are collected in.
//!
//! No metric has a label with a node's or another object's name: the number of series would grow
//! with the cluster.

use prometheus_client::{metrics::info::Info, registry::Registry};

/// Makes a registry whose metrics all begin with `monok8s_<component>_`, holding `build_info`.
pub fn registry(component: &str, version: &'static str) -> Registry {
    let mut registry = Registry::with_prefix(format!("monok8s_{component}"));
    registry.register(
        "build",
        "The release that is running",
        Info::new(vec![("version", version)]),
    );
    registry
}

/// What `/metrics` answers with.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry's state in Prometheus' text format.
pub(crate) fn encode(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_tells_component_and_release() {
        let text = encode(&registry("controller", "9.9.9")).unwrap();
        assert!(
            text.contains(r#"monok8s_controller_build_info{version="9.9.9"} 1"#),
            "{text}"
        );
    }
}
