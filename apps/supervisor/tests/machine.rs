//! The supervisor on a machine that a test plays.

use libos::gate::{Answer, Error, Event, GateError, MachineStatus, Operation, VmState, VmStatus};
use libos::time::{Duration, sleep, timeout};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use supervisor::crowd::IN_FLIGHT;
use supervisor::{Machine, run};
use virtual_isa::bundle::{EntryKind, GroupPlan, Plan, ServicePlan};
use virtual_isa::exception::{Cause, Report};
use virtual_isa::gate::{ClassTerms, Counters, LATENCY_BUCKETS, ProcessorTerms};

/// Busy time of an operation that changes something.
const OPERATION_NS: u64 = 1000;

/// Idle time that passes whenever somebody asks for it.
const LOOK_NS: u64 = 1_000_000;

/// A VM of the test's machine.
struct FakeVm {
    arguments: String,
    class: u32,
    state: VmState,
    starts: u64,
    is_parked: bool,
}

impl FakeVm {
    /// Where it goes on an operation, if it can.
    fn after(&self, operation: &Operation<'_>) -> Result<VmState, GateError> {
        Ok(match (operation, self.state) {
            (Operation::Start { .. }, VmState::Created | VmState::Paused) => VmState::Idle,
            (Operation::Pause { .. }, VmState::Idle) => VmState::Paused,
            (Operation::Park { .. }, VmState::Idle | VmState::Paused) => self.state,
            (Operation::Stop { .. }, VmState::Idle | VmState::Paused) => VmState::Ended,
            (Operation::Destroy { .. }, VmState::Created | VmState::Ended) => VmState::Ended,
            _ => return Err(GateError::BadState),
        })
    }

    fn counters(&self) -> Counters {
        Counters { guest_ns: self.starts * 100, kernel_ns: self.starts * 10, ..Counters::default() }
    }
}

/// The answer to a question after a VM.
fn answer(state: VmState, class: u32, counters: Counters) -> Answer {
    Answer::Vm(Box::new(VmStatus {
        state,
        shares: 1,
        class,
        core: 0,
        memory_pages: 256,
        minimum_pages: 16,
        private_pages: 9,
        template_pages: 20,
        packed_pages: 5,
        disk_pages: 3,
        table_pages: 4,
        generation: 1,
        counters,
        waited_ns: 0,
        preemptions: 0,
        latency: [0; LATENCY_BUCKETS],
    }))
}

/// What the test's machine is and has done.
#[derive(Default)]
struct State {
    entries: Vec<(EntryKind, Vec<u8>)>,
    bad_images: BTreeSet<u32>,
    full_from: Option<u32>,
    images: RefCell<Vec<u32>>,
    vms: RefCell<BTreeMap<u32, FakeVm>>,
    reserved_ppm: Cell<u32>,
    classes: RefCell<Vec<(u32, ClassTerms)>>,
    gateways: RefCell<Vec<(u32, u32, Option<u32>)>>,
    busy_ns: Cell<u64>,
    idle_ns: Cell<u64>,
    unfit: BTreeSet<u32>,
    swap_blocks: u64,
    on_disk: Cell<u32>,
    disk_takes: u32,
    said: RefCell<Vec<String>>,
    events: RefCell<VecDeque<Event>>,
    lines: RefCell<VecDeque<String>>,
    power_off: Cell<Option<u8>>,
    in_flight: Cell<usize>,
    most_in_flight: Cell<usize>,
}

#[derive(Clone)]
struct Fake(Rc<State>);

impl Fake {
    fn operate(&self, operation: Operation<'_>) -> Result<Answer, GateError> {
        let state = &self.0;
        let spend = |cell: &Cell<u64>, ns| cell.set(cell.get() + ns);
        match operation {
            Operation::Machine => spend(&state.idle_ns, LOOK_NS),
            Operation::Inspect { .. } => {}
            _ => spend(&state.busy_ns, OPERATION_NS),
        }
        let parked = u32::try_from(state.vms.borrow().values().filter(|vm| vm.is_parked).count()).unwrap();
        match operation {
            Operation::Machine => Ok(Answer::Machine(Box::new(MachineStatus {
                swap_blocks: state.swap_blocks,
                parked,
                parked_on_disk: {
                    // One more each time somebody looks.
                    state.on_disk.set((state.on_disk.get() + 1).min(parked).min(state.disk_takes));
                    state.on_disk.get()
                },
                uptime_ns: state.idle_ns.get() + state.busy_ns.get(),
                idle_ns: state.idle_ns.get(),
                cpus: 1,
                private_pages: state.vms.borrow().len() as u64 * 9,
                bundle_entries: u32::try_from(state.entries.len()).unwrap(),
                vms: u32::try_from(state.vms.borrow().len()).unwrap() + 1,
                ..MachineStatus::default()
            }))),
            Operation::Entry { entry } => {
                let (kind, bytes) = state.entries.get(entry as usize).ok_or(GateError::NoSuchEntry)?;
                Ok(Answer::Entry { kind: *kind as u32, bytes: u32::try_from(bytes.len()).unwrap() })
            }
            Operation::ReadEntry { entry, offset, length } => {
                assert!(length as usize <= virtual_isa::limits::MAX_READ_BYTES);
                let bytes = &state.entries[entry as usize].1;
                Ok(Answer::Bytes(bytes[offset as usize..][..length as usize].to_vec()))
            }
            Operation::LoadImage { entry } if state.bad_images.contains(&entry) => Err(GateError::BadImage),
            Operation::LoadImage { entry } => {
                state.images.borrow_mut().push(entry);
                Ok(Answer::Image(entry + 100))
            }
            Operation::Create { vm, image, class, arguments, .. } => {
                assert!(class == 0 || state.classes.borrow().iter().any(|(known, _)| *known == class));
                assert!(state.images.borrow().contains(&(image - 100)));
                if state.full_from.is_some_and(|full| vm >= full) {
                    return Err(GateError::NoMemory);
                }
                let arguments = arguments.into();
                let new = FakeVm { arguments, class, state: VmState::Created, starts: 0, is_parked: false };
                let old = state.vms.borrow_mut().insert(vm, new);
                if old.is_some() { Err(GateError::VmExists) } else { Ok(Answer::Done) }
            }
            Operation::Inspect { vm: 0 } => Ok(answer(VmState::Runnable, 0, Counters::default())),
            Operation::Inspect { vm } => {
                let vms = state.vms.borrow();
                let vm = vms.get(&vm).ok_or(GateError::NoSuchVm)?;
                let state = if vm.is_parked { VmState::Parked } else { vm.state };
                Ok(answer(state, vm.class, vm.counters()))
            }
            Operation::Park { vm, .. } if state.unfit.contains(&vm) => Err(GateError::BadState),
            Operation::Start { vm: number }
            | Operation::Park { vm: number, .. }
            | Operation::Pause { vm: number }
            | Operation::Stop { vm: number }
            | Operation::Destroy { vm: number } => {
                let mut vms = state.vms.borrow_mut();
                let vm = vms.get_mut(&number).ok_or(GateError::NoSuchVm)?;
                vm.state = vm.after(&operation)?;
                match operation {
                    Operation::Start { .. } => {
                        vm.starts += 1;
                        vm.is_parked = false;
                    }
                    Operation::Park { .. } => vm.is_parked = true,
                    Operation::Destroy { .. } => drop(vms.remove(&number)),
                    _ => {}
                }
                Ok(Answer::Done)
            }
            Operation::Group { processor, .. } => {
                let reserved_ppm = state.reserved_ppm.get() + processor.reservation_ppm;
                if reserved_ppm > 1_000_000 {
                    return Err(GateError::NoProcessor);
                }
                state.reserved_ppm.set(reserved_ppm);
                Ok(Answer::Done)
            }
            Operation::Class { terms, .. } if terms.group == 3 => Err(GateError::BadArgument),
            Operation::Class { class, terms } => {
                state.classes.borrow_mut().push((class, terms));
                Ok(Answer::Done)
            }
            Operation::Gateway { through: Some(99), .. } => Err(GateError::BadArgument),
            Operation::Gateway { first, count, through } => {
                assert!(!state.vms.borrow().contains_key(&first), "before there is anybody to be reached");
                state.gateways.borrow_mut().push((first, count, through));
                Ok(Answer::Done)
            }
            Operation::PowerOff { status } => {
                state.power_off.set(Some(status));
                Ok(Answer::Done)
            }
        }
    }
}

impl Machine for Fake {
    async fn call(&self, operation: Operation<'_>) -> Result<Answer, Error> {
        let state = &self.0;
        state.in_flight.set(state.in_flight.get() + 1);
        state.most_in_flight.set(state.most_in_flight.get().max(state.in_flight.get()));
        libos::task::yield_now().await;
        let result = self.operate(operation);
        state.in_flight.set(state.in_flight.get() - 1);
        if matches!(operation, Operation::PowerOff { .. }) {
            // The real one does not answer.
            core::future::pending::<()>().await;
        }
        result.map_err(Error::Refused)
    }

    async fn next_event(&self) -> Event {
        loop {
            if let Some(event) = self.0.events.borrow_mut().pop_front() {
                return event;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn read_line(&self) -> String {
        loop {
            if let Some(line) = self.0.lines.borrow_mut().pop_front() {
                return line;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn say(&self, line: &str) {
        self.0.said.borrow_mut().push(line.into());
    }
}

/// The groups of plans that have some, and what they reserve: the second more than the machine has.
const GROUPS: [(&str, u32); 2] = [("red", 500_000), ("greedy", 600_000)];

/// Services whose names begin with a group's are in it, and those that are fast may send a lot.
fn terms_of(service: &str) -> ClassTerms {
    let group = match service {
        name if name.starts_with("red") => 2,
        name if name.starts_with("greedy") => 3,
        _ => 1,
    };
    ClassTerms { group, frames_per_s: if service.ends_with("fast") { 1000 } else { 0 }, ..ClassTerms::DEFAULT }
}

/// Services that are walled have a gateway, which the machine refuses if it is VM 99.
fn gateway_of(service: &str) -> Option<u32> {
    match service {
        "walled" => Some(1),
        "walled-off" => Some(99),
        _ => None,
    }
}

fn plan(power_off_when_done: bool, services: &[(&str, u32, u32, u32)]) -> Vec<u8> {
    let has_groups = services.iter().any(|(name, ..)| terms_of(name).group != 1);
    let groups = if has_groups { &GROUPS[..] } else { &[] };
    let [nr_groups, nr_services] = [groups.len(), services.len()].map(|n| u32::try_from(n).unwrap());
    let header = Plan { power_off_when_done, nr_groups, nr_services, name: "test" };
    let mut bytes = postcard::to_allocvec(&header).unwrap();
    for &(name, reservation_ppm) in groups {
        let processor = ProcessorTerms { shares: 100, reservation_ppm, limit_ppm: 0 };
        bytes.extend(postcard::to_allocvec(&GroupPlan { name, processor }).unwrap());
    }
    for &(name, entry, first_vm, count) in services {
        let arguments = format!("body=1 service={name}");
        let service = ServicePlan {
            name,
            entry,
            first_vm,
            count,
            memory_pages: 256,
            minimum_pages: 16,
            shares: 100,
            terms: terms_of(name),
            gateway: gateway_of(name),
            arguments: &arguments,
        };
        bytes.extend(postcard::to_allocvec(&service).unwrap());
    }
    bytes
}

fn bundle(plan: Vec<u8>) -> Vec<(EntryKind, Vec<u8>)> {
    let image = |_| (EntryKind::Image, vec![0; 10]);
    let mut entries = vec![(EntryKind::Machine, vec![0; 50]), (EntryKind::Plan, plan)];
    entries.extend((0..3).map(image));
    entries
}

/// Runs the supervisor until it has powered off or `script` is done.
fn play(state: State, script: impl AsyncFnOnce(&Rc<State>)) -> Rc<State> {
    let state = Rc::new(state);
    libos::block_on(async {
        let machine = Fake(state.clone());
        let _supervisor = libos::task::spawn(async move { run(machine).await });
        script(&state).await;
    });
    state
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect("in time");
}

async fn has_said(state: &State, beginning: &str) {
    until(|| state.said.borrow().iter().any(|line| line.starts_with(beginning))).await;
}

fn ended(vm: u32, cause: Cause) -> Event {
    let report = Report { cause, instruction: 0, stack: 0, flags: 0, registers: [0; 15], backtrace: [0; 16] };
    Event::Ended { vm, report }
}

#[test]
fn every_vm_of_the_plan_is_started_with_few_requests_at_a_time_and_each_image_loaded_once() {
    let services = [("web", 3, 1, 1000), ("echo", 4, 1001, 5), ("more", 3, 1006, 10)];
    let state = State { entries: bundle(plan(false, &services)), ..State::default() };
    let state = play(state, async |state| {
        has_said(state, "fleet test: 1015 VMs started").await;
        state.lines.borrow_mut().extend(["status".into(), "".into(), "vm 1003".into(), "vm 5000".into(), "up".into()]);
        has_said(state, "error: unknown command").await;
    });
    assert_eq!(*state.images.borrow(), [3, 4]);
    let vms = state.vms.borrow();
    assert_eq!(vms.len(), 1015);
    assert!(vms.values().all(|vm| vm.starts == 1));
    assert_eq!(vms[&1003].arguments, "body=1 service=echo");
    // Besides the starts, one question from the console at a time.
    let most = u32::try_from(state.most_in_flight.get()).unwrap();
    assert!((2..=IN_FLIGHT + 1).contains(&most), "{most}");
    let said = state.said.borrow();
    let json = |prefix: &str| -> serde_json::Value {
        let line = said.iter().find_map(|line| line.strip_prefix(prefix)).unwrap();
        serde_json::from_str(line).unwrap()
    };
    let status = json("status ");
    assert_eq!((&status["started"], &status["private_pages"]), (&1015.into(), &(1015 * 9).into()));
    assert_eq!(json("vm ")["service"], "echo");
    assert!(said.contains(&"error: vm 5000: no such VM".into()));
}

#[test]
fn services_are_led_through_their_gateway_or_not_started() {
    let services = [("wall", 2, 1, 1), ("walled", 2, 2, 3), ("walled-off", 2, 5, 2)];
    let state = State { entries: bundle(plan(false, &services)), ..State::default() };
    let state =
        play(state, async |state| until(|| state.said.borrow().iter().any(|line| line.contains("started"))).await);
    assert_eq!(*state.gateways.borrow(), [(2, 3, Some(1))]);
    assert_eq!(state.vms.borrow().keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
    let said = state.said.borrow();
    assert!(
        said.iter().any(|line| line.starts_with("error: service walled-off: its gateway, vm 99, was refused: ")),
        "{said:?}"
    );
}

#[test]
fn vms_get_the_class_of_their_service_and_refused_groups_run_nothing() {
    let services =
        [("web", 3, 1, 2), ("red", 3, 3, 2), ("greedy", 3, 5, 7), ("red-fast", 4, 12, 1), ("red2", 3, 13, 1)];
    let state = State { entries: bundle(plan(false, &services)), ..State::default() };
    let state = play(state, async |state| {
        has_said(state, "fleet test: 6 of 13 VMs started").await;
        state.lines.borrow_mut().extend(["vm 12".into(), "vm 1".into(), "vm 0".into(), "up".into()]);
        has_said(state, "error: unknown command").await;
    });
    let red_fast = ClassTerms { group: 2, frames_per_s: 1000, ..ClassTerms::DEFAULT };
    assert_eq!(*state.classes.borrow(), [(1, ClassTerms { frames_per_s: 0, ..red_fast }), (3, red_fast)]);
    let classes: Vec<(u32, u32)> = state.vms.borrow().iter().map(|(vm, fake)| (*vm, fake.class)).collect();
    assert_eq!(classes, [(1, 0), (2, 0), (3, 1), (4, 1), (12, 3), (13, 1)]);
    let said = state.said.borrow();
    let short = "the processors have less time left to promise than its reservation";
    assert!(said.contains(&format!("error: group greedy: {short}")), "{said:?}");
    assert!(said.contains(&format!("error: service greedy: its group greedy was refused: {short}")), "{said:?}");
    let groups: Vec<String> = said
        .iter()
        .filter_map(|line| line.strip_prefix("vm "))
        .map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap()["group"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(groups, ["red", "default", "supervisor"]);
}

#[test]
fn down_powers_off_cleanly() {
    let state = State { entries: bundle(plan(false, &[("web", 3, 1, 2)])), ..State::default() };
    let state = play(state, async |state| {
        has_said(state, "fleet test: 2 VMs started").await;
        state.lines.borrow_mut().push_back("down".into());
        until(|| state.power_off.get().is_some()).await;
    });
    assert_eq!(state.power_off.get(), Some(0));
}

/// Runs a fleet of 5 VMs of which one cannot be parked, and types these lines, each when the one before is answered.
/// Returns the answers.
fn asked(lines: &[&str]) -> Vec<String> {
    let entries = bundle(plan(false, &[("web", 3, 1, 5)]));
    let state = State { entries, unfit: [3, 103].into(), ..State::default() };
    let state = play(state, async |state| {
        has_said(state, "fleet test: 5 VMs started").await;
        for line in lines {
            let before = state.said.borrow().len();
            state.lines.borrow_mut().push_back((*line).into());
            until(|| state.said.borrow().len() > before).await;
        }
    });
    assert_eq!(state.vms.borrow().keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    state.said.borrow()[2..].to_vec()
}

#[test]
fn vms_are_parked_one_by_one_and_all_together() {
    let answers = asked(&["park 2", "park 3 disk", "park 1-2 memory", "park all disk", "park 4-4", "park 7"]);
    let expected = [
        "parked vm 2",
        "error: vm 3: cannot park it: the VM's state does not allow it",
        "parked 2 VMs",
        "parked 4 VMs",
        "parked 1 VMs",
        "error: vm 7: cannot park it: no such VM",
    ];
    assert_eq!(answers, expected);
}

#[test]
fn a_vm_is_paused_and_started_again() {
    let answers = asked(&["pause 2", "pause 2", "start 2", "start 2", "pause 7"]);
    let expected = [
        "paused vm 2",
        "error: vm 2: cannot pause it: the VM's state does not allow it",
        "started vm 2",
        "error: vm 2: cannot start it: the VM's state does not allow it",
        "error: vm 7: cannot pause it: no such VM",
    ];
    assert_eq!(answers, expected);
}

#[test]
fn vms_are_on_the_disk_when_it_is_said_or_nothing_gets_there_any_more() {
    for (disk_takes, on_disk) in [(100, 30), (10, 10)] {
        let entries = bundle(plan(false, &[("web", 3, 1, 30)]));
        let state = State { entries, swap_blocks: 1000, disk_takes, ..State::default() };
        let state = play(state, async |state| {
            has_said(state, "fleet test: 30 VMs started").await;
            state.lines.borrow_mut().extend(["park all disk".into(), "park 1 disk".into(), "park 1-2".into()]);
            has_said(state, "parked 30 VMs").await;
        });
        assert_eq!(state.on_disk.get(), on_disk);
        let said = state.said.borrow();
        // Others are asked and answered meanwhile, but for what takes long too.
        let busy = said.iter().position(|line| line.starts_with("error: another command is not done yet")).unwrap();
        let one = said.iter().position(|line| line == "parked vm 1").unwrap();
        let all = said.iter().position(|line| line == "parked 30 VMs").unwrap();
        assert!(one < all && busy < all, "{said:?}");
    }
}

#[test]
fn a_storm_says_how_much_it_created_and_leaves_nothing_behind() {
    let answers = asked(&["storm 11 7 1", "storm 5 1 1", "storm 101 7 1"]);
    let figures: serde_json::Value = serde_json::from_str(answers[0].strip_prefix("storm ").unwrap()).unwrap();
    let rounds = figures["rounds"].as_u64().unwrap();
    assert!(rounds > 0, "{figures}");
    assert_eq!(figures["created"], 7 * rounds);
    assert!(answers[1].contains("some of these VMs are service web's"), "{}", answers[1]);
    assert!(answers[2].starts_with("storm {"), "{}", answers[2]);
}

#[test]
fn a_race_among_equals_is_even() {
    let answers = asked(&["race 1-5 1", "race 4-9 1"]);
    let figures: serde_json::Value = serde_json::from_str(answers[0].strip_prefix("race ").unwrap()).unwrap();
    assert_eq!((&figures["count"], &figures["weights"][0]["vms"]), (&5.into(), &5.into()));
    // Nobody has had anything meanwhile.
    assert_eq!((&figures["time_jain_ppm"][0], &figures["frames_jain_ppm"][0]), (&0.into(), &0.into()));
    assert!(figures["at_ms"][0].as_u64().unwrap() >= 1000, "{figures}");
    assert_eq!(answers[1], "error: race: vm 6: no such VM");
}

#[test]
fn churn_says_what_each_step_cost() {
    let answers = asked(&["churn 11 7"]);
    let figures: serde_json::Value = serde_json::from_str(answers[0].strip_prefix("churn ").unwrap()).unwrap();
    assert_eq!((&figures["first"], &figures["count"]), (&11.into(), &7.into()));
    for step in ["create", "start", "park", "wake", "stop", "destroy"] {
        assert_eq!(figures[format!("{step}_busy_ns")], 7 * OPERATION_NS, "{step} in {figures}");
        assert_eq!(figures[format!("{step}_supervisor_ns")], 0, "{step} in {figures}");
    }
    for step in ["start", "wake"] {
        assert_eq!(figures[format!("{step}_guest_ns")], 700, "{step} in {figures}");
        assert_eq!(figures[format!("{step}_kernel_ns")], 70, "{step} in {figures}");
    }
}

#[test]
fn churn_leaves_nothing_behind_when_it_fails() {
    let answers = asked(&["churn 100 9", "churn 5 9", "churn 11 0", "churn 1048576 1", "churn 4294967295 2"]);
    assert_eq!(answers[0], "error: churn: park: 1 VMs refused: the VM's state does not allow it");
    assert_eq!(answers[1], "error: churn 5 9: some of these VMs are service web's");
    for answer in &answers[2..] {
        assert!(answer.ends_with("VMs are 1 to 1048575, at least one"), "{answer}");
    }
}

#[test]
fn a_plan_that_ends_powers_off_with_what_became_of_it() {
    for (cause, status) in [
        (Cause::Terminated { status: 0 }, 0),
        (Cause::Terminated { status: 101 }, 1),
        (Cause::Memory { address: 0, access: virtual_isa::exception::Access::Read }, 1),
    ] {
        let state = State { entries: bundle(plan(true, &[("job", 3, 1, 2)])), ..State::default() };
        // The first may end before the last is started.
        state.events.borrow_mut().push_back(ended(1, cause));
        let state = play(state, async |state| {
            has_said(state, "fleet test").await;
            sleep(Duration::from_millis(20)).await;
            assert_eq!(state.power_off.get(), None);
            state.events.borrow_mut().push_back(Event::Spoofed { vm: 2 });
            state.events.borrow_mut().push_back(ended(2, Cause::Terminated { status: 0 }));
            until(|| state.power_off.get().is_some()).await;
        });
        assert_eq!(state.power_off.get(), Some(status));
    }
}

#[test]
fn failures_name_service_vm_and_reason_and_the_others_go_on() {
    let services = [("web", 3, 1, 20), ("bad", 4, 21, 7), ("late", 2, 28, 1)];
    let state = State {
        entries: bundle(plan(true, &services)),
        bad_images: [4].into(),
        full_from: Some(9),
        ..State::default()
    };
    let state = play(state, async |state| {
        has_said(state, "fleet test: 8 of 28 VMs started").await;
        for vm in 1..9 {
            state.events.borrow_mut().push_back(ended(vm, Cause::Terminated { status: 0 }));
        }
        until(|| state.power_off.get().is_some()).await;
    });
    assert_eq!(state.power_off.get(), Some(1));
    let said = state.said.borrow();
    assert!(said.contains(&"error: service bad: image (bundle entry 4): the image failed its checks".into()));
    assert!(said.contains(&"error: service web: vm 9: cannot create it: out of memory".into()));
    assert!(said.contains(&"error: service web: 12 VMs failed in all".into()));
    assert_eq!(said.iter().filter(|line| line.contains("cannot create")).count(), 9);
}

#[test]
fn a_bad_plan_is_reported_and_powers_off_with_2() {
    let good = plan(false, &[("web", 3, 1, 2)]);
    let without = vec![(EntryKind::Machine, vec![0; 50]), (EntryKind::Image, vec![0; 10])];
    let mut twice = bundle(good.clone());
    twice.push((EntryKind::Plan, good.clone()));
    for (entries, why) in [
        (without, "the bundle has none"),
        (twice, "more than one"),
        (bundle(good[..good.len() - 1].to_vec()), "cut short"),
        (bundle(plan(false, &[("web", 77, 1, 2)])), "service web: entry is out of range"),
        (bundle(vec![0; 2 << 20]), "2097152 bytes"),
    ] {
        let state = play(State { entries, ..State::default() }, async |state| {
            until(|| state.power_off.get().is_some()).await;
        });
        assert_eq!(state.power_off.get(), Some(2));
        let said = state.said.borrow();
        assert!(said.len() == 1 && said[0].starts_with("error: the launch plan cannot be used: "), "{said:?}");
        assert!(said[0].contains(why), "{said:?}");
        assert!(state.vms.borrow().is_empty());
    }
}
