//! Prints the CRDs as YAML; `make manifests` writes them to `manifests/crds/`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for crd in monok8s_api::crd::all() {
        println!("---\n{}", serde_yaml::to_string(&crd)?);
    }
    Ok(())
}
