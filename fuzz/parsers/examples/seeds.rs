//! Writes the examples of every parser to where its fuzz target begins: `fuzz/corpus/NAME`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for target in &parsers::TARGETS {
        let folder = corpus.join(target.name);
        fs::create_dir_all(&folder)?;
        for (n, example) in (target.examples)().iter().enumerate() {
            fs::write(folder.join(format!("example-{n}")), example)?;
        }
    }
    Ok(())
}
