//! The list of attempts to get out of what holds a guest (`probes.c`), built with this machine's C compiler, and what it says.

use std::path::Path;
use std::process::Command;

/// Builds the list as one static program.
pub fn build(to: &Path) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probes/probes.c");
    let built = Command::new("cc").args(["-static", "-O1", "-o"]).arg(to).arg(source).output();
    let built = built.map_err(|e| format!("no C compiler (package gcc): {e}"))?;
    if built.status.success() {
        Ok(())
    } else {
        Err(format!("the probes do not build: {}", String::from_utf8_lossy(&built.stderr)))
    }
}

/// One line of its output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub name: String,
    pub open: bool,
    pub detail: String,
}

/// Reads its output. Anything but findings is a failure: a list that broke off proves nothing.
pub fn findings(output: &str) -> Vec<Finding> {
    let finding = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (name, verdict) = (words.next().unwrap_or_default(), words.next());
        let open = match verdict {
            Some("contained") => false,
            Some("OPEN") => true,
            _ => panic!("not a finding: {line:?}"),
        };
        Finding { name: name.to_owned(), open, detail: words.next().unwrap_or_default().to_owned() }
    };
    output.lines().map(finding).collect()
}

/// The names of those that found a way.
pub fn open(findings: &[Finding]) -> Vec<String> {
    findings.iter().filter(|f| f.open).map(|f| format!("{} ({})", f.name, f.detail)).collect()
}
