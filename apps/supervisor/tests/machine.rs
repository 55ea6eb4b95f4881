//! The supervisor on a machine that a test plays.

use libos::gate::{Answer, Error, Event, GateError, MachineStatus, Operation, VmState, VmStatus};
use libos::time::{Duration, sleep, timeout};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use supervisor::{Machine, run};
use virtual_isa::bundle::{EntryKind, Plan, ServicePlan};
use virtual_isa::exception::{Cause, Report};
use virtual_isa::gate::Counters;

/// What the test's machine is and has done.
#[derive(Default)]
struct State {
    entries: Vec<(EntryKind, Vec<u8>)>,
    bad_images: BTreeSet<u32>,
    full_from: Option<u32>,
    images: RefCell<Vec<u32>>,
    vms: RefCell<BTreeMap<u32, (bool, String)>>,
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
        match operation {
            Operation::Machine => Ok(Answer::Machine(Box::new(MachineStatus {
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
            Operation::Create { vm, image, arguments, .. } => {
                assert!(state.images.borrow().contains(&(image - 100)));
                if state.full_from.is_some_and(|full| vm >= full) {
                    return Err(GateError::NoMemory);
                }
                let created = state.vms.borrow_mut().insert(vm, (false, arguments.into()));
                if created.is_some() { Err(GateError::VmExists) } else { Ok(Answer::Done) }
            }
            Operation::Start { vm } => {
                let mut vms = state.vms.borrow_mut();
                let (is_started, _) = vms.get_mut(&vm).ok_or(GateError::NoSuchVm)?;
                if core::mem::replace(is_started, true) { Err(GateError::BadState) } else { Ok(Answer::Done) }
            }
            Operation::Inspect { vm } => {
                let vms = state.vms.borrow();
                vms.get(&vm).ok_or(GateError::NoSuchVm)?;
                let (private_pages, table_pages) = (9, 4);
                let state = VmState::Idle;
                let counters = Counters::default();
                Ok(Answer::Vm(Box::new(VmStatus {
                    state,
                    shares: 1,
                    memory_pages: 256,
                    minimum_pages: 16,
                    template_pages: 20,
                    private_pages,
                    table_pages,
                    packed_pages: 5,
                    disk_pages: 3,
                    generation: 1,
                    counters,
                })))
            }
            Operation::PowerOff { status } => {
                state.power_off.set(Some(status));
                Ok(Answer::Done)
            }
            _ => Err(GateError::BadArgument),
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

fn plan(power_off_when_done: bool, services: &[(&str, u32, u32, u32)]) -> Vec<u8> {
    let nr_services = u32::try_from(services.len()).unwrap();
    let mut bytes = postcard::to_allocvec(&Plan { power_off_when_done, nr_services, name: "test" }).unwrap();
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
    assert!(vms.values().all(|(is_started, _)| *is_started));
    assert_eq!(vms[&1003].1, "body=1 service=echo");
    assert!(state.most_in_flight.get() <= 20, "{}", state.most_in_flight.get());
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
fn down_powers_off_cleanly() {
    let state = State { entries: bundle(plan(false, &[("web", 3, 1, 2)])), ..State::default() };
    let state = play(state, async |state| {
        has_said(state, "fleet test: 2 VMs started").await;
        state.lines.borrow_mut().push_back("down".into());
        until(|| state.power_off.get().is_some()).await;
    });
    assert_eq!(state.power_off.get(), Some(0));
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
