//! Sees to it that no release goes out without the console.

use std::path::Path;

#[expect(clippy::disallowed_methods, reason = "cargo speaks to a build script through the environment")]
fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    if Path::new("web/dist/index.html").exists() {
        println!("cargo::rerun-if-changed=web/dist");
        return Ok(());
    }
    // Of a folder that is not there cargo would think that it had changed every time.
    if std::env::var_os("PROFILE").is_some_and(|profile| profile == "release") {
        return Err("the console is not built, and a release must carry it: run `make console` first".to_owned());
    }
    println!("cargo::warning=the console is not built, so its pages will only say so: run `make console`");
    Ok(())
}
