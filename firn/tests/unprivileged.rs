//! A machine without root's rights.

mod common;

use common::{Done, built};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What the user does. The folder is the first argument.
const SCRIPT: &str = r#"
set -e
export CARGO_TARGET_DIR=$1/target FIRN_STATE=$1/state PATH=/usr/bin:/bin
cd "$1"
firn=$1/firn
test "$(id -u)" != 0
"$firn" up fleet.toml --accel tcg
"$firn" exec -- curl -sS --max-time 10 http://10.65.0.2/healthz
"$firn" down
"$firn" run web --no-build --accel tcg -p $2:80
curl -sS --max-time 10 http://localhost:$2/healthz
"$firn" down
"#;

/// Gives a user who cannot open the TUN device one that he can, in a mount namespace of this command alone, and
/// becomes that user.
const AS_NOBODY: &str = r#"
set -e
if [ "$(stat -c %a /dev/net/tun)" != 666 ]; then
    mknod "$1/tun" c 10 200
    chmod 666 "$1/tun"
    mount --bind "$1/tun" /dev/net/tun
fi
exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c "$2" sh "$1" "$3"
"#;

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_fleet_runs_without_roots_rights() {
    let project = built();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    open_to_all(path);
    // Everything in a place that the user can read, whoever owns the workspace.
    let copy = |from: &Path, to: &str| {
        let to = path.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    copy(Path::new(env!("CARGO_BIN_EXE_firn")), "firn");
    copy(&project.root.join("virtual-isa/Cargo.toml"), "virtual-isa/Cargo.toml");
    copy(&project.kernel(), "target/x86_64-unknown-none/kernel/kernel");
    for app in ["web", "supervisor"] {
        copy(&project.image(app), &format!("target/firn/images/{app}.img"));
    }
    let fleet =
        "[machine]\nmemory = \"128M\"\n[[service]]\nname = \"web\"\nimage = \"web\"\ncount = 2\nmemory = \"4M\"\n";
    fs::write(path.join("fleet.toml"), fleet).unwrap();
    let state = path.join("state");
    fs::create_dir(&state).unwrap();

    let port = common::free_port().to_string();
    let mut command = if firn::host::is_root() {
        std::os::unix::fs::chown(&state, Some(65_534), Some(65_534)).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", AS_NOBODY, "sh"]).arg(path).args([SCRIPT, &port]);
        command
    } else {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(path).arg(&port);
        command
    };
    let done = Done::of(command.output().unwrap()).expect(0);
    assert!(done.out.contains("2 VMs started") && done.out.contains("1 VM started"), "{done:?}");
}
