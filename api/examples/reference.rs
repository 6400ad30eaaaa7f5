//! Writes the reference pages, one for each kind, to the folder named by the argument.

use std::{env, error::Error, fs, path::Path};

use monok8s_api::crd;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os()
        .nth(1)
        .ok_or("name the folder: cargo run -p monok8s-api --example reference -- docs/reference")?;
    fs::create_dir_all(&folder)?;
    for crd in crd::all() {
        let file = format!(
            "{}.md",
            crd.spec.names.singular.as_deref().unwrap_or("kind")
        );
        fs::write(Path::new(&folder).join(file), crd::reference(&crd)?)?;
    }
    Ok(())
}
