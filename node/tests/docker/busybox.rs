//! An image of this machine's busybox and nothing else: no registry is needed.

use std::process::Command;

/// Its name.
pub const IMAGE: &str = "rn-test-busybox";
/// Where busybox is, here and in the image.
pub const BUSYBOX: &str = "/bin/busybox";

/// Makes the image anew: its id, `sha256:…`; or why it cannot be made.
pub fn import() -> Result<String, String> {
    let answers = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    if !answers.is_ok_and(|o| o.status.success()) {
        return Err("no Docker engine answers".to_owned());
    }
    let is_static = Command::new("ldd").arg(BUSYBOX).output();
    if !is_static.is_ok_and(|o| String::from_utf8_lossy(&o.stderr).contains("not a dynamic executable")) {
        return Err(format!("{BUSYBOX} is not there, or not static (package busybox-static)"));
    }
    let import = format!("tar -C / -c bin/busybox 2>/dev/null | docker import - {IMAGE}");
    let out = Command::new("sh").args(["-c", &import]).output().map_err(|e| e.to_string())?;
    let id = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    let said = || format!("docker import: {id} {}", String::from_utf8_lossy(&out.stderr));
    if id.starts_with("sha256:") { Ok(id.clone()) } else { Err(said()) }
}

/// Says why there is no image, and fails where there has to be one.
pub fn skip(why: &str) {
    assert!(std::env::var_os("REQUIRE_DOCKER").is_none(), "{why}");
    println!("SKIPPED: {why}");
}
