//! Asking the supervisor over its console, and machines that count their instructions.

mod common;

use common::{Bench, number};
use serde_json::Value;

#[test]
fn the_supervisor_is_asked_and_its_errors_are_told() {
    let bench = Bench::new();
    bench.up(&bench.web(3), &["--icount"]);
    let ask = |words: &[&str]| bench.firn([&["ask"], words].concat());
    let said = ask(&["vm", "2"]).expect(0).out;
    assert!(said.starts_with("vm {\"vm\":2,") && said.lines().count() == 1, "{said}");
    let wrong = ask(&["prak", "all"]).expect(1).err;
    assert!(wrong.contains("unknown command \"prak all\"") && wrong.contains("park N|N-M|all"), "{wrong}");
    assert!(ask(&["vm", "77"]).expect(1).err.contains("vm 77"));
    assert!(ask(&["churn", "2", "5"]).expect(1).err.contains("some of these VMs are service web's"));
    ask(&["vm\n1"]).expect(2);
    bench.firn(["ask", "--name", "other", "status"]).expect(2);
    // Under --icount the same costs the same, to the instruction or nearly; but that at times one more turn of the
    // supervisor falls into a step.
    let costs = || {
        let said = ask(&["churn", "1001", "50"]).expect(0).out;
        let figures: Value = serde_json::from_str(said.strip_prefix("churn ").unwrap()).unwrap();
        ["create", "start", "park", "wake", "stop"].map(|step| number(&figures, &format!("/{step}_busy_ns")))
    };
    costs();
    let rounds = [costs(), costs(), costs(), costs()];
    for step in 0..rounds[0].len() {
        let mut of_step = rounds.map(|round| round[step]);
        of_step.sort_unstable();
        let are_close = |pair: &[u64]| pair[0] > 0 && (pair[1] - pair[0]) * 50 < pair[0];
        assert!(of_step.windows(2).any(are_close), "step {step}: {of_step:?} instructions");
    }
    let down = ask(&["down"]).expect(0).out;
    assert_eq!(down, "machine default: powered off cleanly\n");
    bench.firn(["up", bench.web(1).to_str().unwrap(), "--icount", "--cpus", "2"]).expect(2);
}
