//! Writes the CRDs, one file each, to the folder named by the argument; without one it prints them.

use std::{env, error::Error, fs, path::Path};

use monok8s_api::crd;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os().nth(1);
    for crd in crd::all() {
        let text = crd::manifest(&crd)?;
        match &folder {
            Some(folder) => {
                fs::create_dir_all(folder)?;
                let file = format!("{}.yaml", crd.spec.names.plural);
                fs::write(Path::new(folder).join(file), text)?;
            }
            None => print!("---\n{text}"),
        }
    }
    Ok(())
}
