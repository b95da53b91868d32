//! Set-ups and undos that fail, are interrupted, or find changed files.

use super::*;
use crate::client::steps::{Attendant, Step};

/// The run failed at a command and was taken back completely.
#[track_caller]
fn assert_taken_back(refused: &Refused) {
    let Refused::Execute(ExecuteError::TakenBack { failure, aftermath }) = refused else { panic!("{refused:?}") };
    assert!(matches!(**failure, ExecuteError::Command { .. }), "{failure:?}");
    assert_eq!(*aftermath, Aftermath::AsBefore);
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    for word in ["update-ca-certificates", "daemon-reload", "try-restart"] {
        let mut machine = Machine::new();
        let before = machine.tree();
        machine.failing = Some(word);
        assert_taken_back(&machine.set_up(Runtime::Docker, Mode::Proxy).expect_err(word));
        assert_eq!(differences(&before, &machine.tree()), NONE, "{word}");
    }
}

#[test]
fn a_failure_at_a_change_leaves_the_earlier_set_up() {
    let moved = Target { host: "192.168.1.6".to_owned(), ca_pem: "OTHER".to_owned(), ..target() };
    let reloaded = ["systemctl daemon-reload", "systemctl try-restart docker.service"];
    for (mode, target) in [(Mode::Mirror, target()), (Mode::Redirect, target()), (Mode::Proxy, moved)] {
        for word in ["update-ca-certificates", "daemon-reload", "try-restart"] {
            let mut machine = Machine::new();
            let original = machine.tree();
            machine.set_up(Runtime::Docker, Mode::Proxy).expect("set up");
            let earlier = machine.tree();
            machine.failing = Some(word);
            assert_taken_back(&machine.set_up_with(Runtime::Docker, mode, &target).expect_err(word));
            assert_eq!(differences(&earlier, &machine.tree()), NONE, "{mode:?} {word}: journal and files");
            assert!(machine.said().ends_with(&reloaded.map(str::to_owned)), "the earlier set-up is in force again");
            machine.undo(Runtime::Docker);
            assert_eq!(differences(&original, &machine.tree()), NONE, "{mode:?} {word}");
        }
    }
}

/// Verification takes a change back in this way if it fails after the set-up.
#[test]
fn a_change_is_taken_back_whole_or_says_what_is_left() {
    let mut machine = Machine::new();
    machine.set_up(Runtime::Docker, Mode::Proxy).expect("set up");
    let earlier = machine.tree();
    let again = machine.change(Runtime::Docker, Mode::Proxy, &target()).expect("in place");
    assert!(again.is_none(), "nothing was changed, so there is nothing to take back");
    let change = machine.change(Runtime::Docker, Mode::Mirror, &target()).expect("set up anew").expect("a change");
    assert_eq!(change.take_back(&machine.host(), &mut |_: &Command| Ok(())), Aftermath::AsBefore);
    assert_eq!(differences(&earlier, &machine.tree()), NONE);

    let change = machine.change(Runtime::Docker, Mode::Mirror, &target()).expect("set up anew").expect("a change");
    machine.put("etc/docker/daemon.json", "{\"mine\": 1}");
    assert_eq!(change.take_back(&machine.host(), &mut |_: &Command| Ok(())), Aftermath::Left(1));
    assert_eq!(machine.text("etc/docker/daemon.json").as_deref(), Some("{\"mine\": 1}"));
    let drop_in = "etc/systemd/system/docker.service.d/entrepot.conf";
    assert!(machine.text(drop_in).is_some(), "the earlier set-up is back");

    machine.put("etc/docker/daemon.json", "{}");
    let change = machine.change(Runtime::Docker, Mode::Mirror, &target()).expect("set up anew").expect("a change");
    let mut fails = |_: &Command| Err("as asked".to_owned());
    assert_eq!(change.take_back(&machine.host(), &mut fails), Aftermath::Left(3));
}

/// The state after a change that was killed before it rewrote this file.
#[test]
fn undo_knows_what_an_earlier_run_wrote() {
    let mut machine = Machine::new();
    let before = machine.tree();
    machine.set_up(Runtime::Docker, Mode::Proxy).expect("set up");
    let drop_in = "etc/systemd/system/docker.service.d/entrepot.conf";
    let earlier = machine.text(drop_in).expect("set up");
    let moved = Target { host: "192.168.1.6".to_owned(), ..target() };
    let (host, (mine, others)) = (machine.host(), machine.journals(Runtime::Docker));
    let view = host.before(journal::before(mine.as_slice()));
    let plan = plan(Runtime::Docker, Mode::Proxy, &view, &moved, &Found::default()).expect("a plan");
    let journal = Journal::new(Runtime::Docker, Mode::Proxy, &moved.host, 3128, &moved.ca_sha256);
    let mut killed = None;
    let mut run = |_: &Command| {
        killed.get_or_insert(fs::read(machine.folder.path().join("var/lib/entrepot-client/docker.json")));
        Ok(())
    };
    let change = apply(&host, &plan, journal, mine.as_ref(), &others, &mut run).expect("moved");
    assert!(change.is_some());
    let journal = String::from_utf8(killed.expect("ran").expect("a journal")).expect("text");
    machine.put("var/lib/entrepot-client/docker.json", &journal);
    machine.put(drop_in, &earlier);
    assert_eq!(machine.undo(Runtime::Docker), 0);
    assert_eq!(differences(&before, &machine.tree()), NONE);
}

#[test]
fn undo_goes_on_from_wherever_it_was_stopped() {
    let files = ["usr/local/share/ca-certificates/entrepot.crt", "etc/docker/daemon.json"];
    for done in 0..=files.len() {
        let mut machine = Machine::new();
        let before = machine.tree();
        machine.set_up(Runtime::Docker, Mode::Mirror).expect("set up");
        // The state after a set-up that was killed before it wrote these files, or an undo that was killed after it
        // restored them.
        for path in &files[..done] {
            let path = machine.folder.path().join(path);
            match before.get(&path) {
                Some((Some(content), _)) => fs::write(&path, content).expect("restored"),
                _ => fs::remove_file(&path).expect("removed"),
            }
        }
        assert_eq!(machine.undo(Runtime::Docker), 0);
        assert_eq!(differences(&before, &machine.tree()), NONE, "{done} done");
        assert!(machine.journals(Runtime::Docker).0.is_none(), "nothing is left to undo");
    }
}

#[test]
fn what_was_changed_since_is_left_alone() {
    let mut machine = Machine::new();
    machine.set_up(Runtime::Docker, Mode::Mirror).expect("set up");
    machine.put("etc/docker/daemon.json", "{\"mine\": 1}");
    let again = machine.set_up(Runtime::Docker, Mode::Mirror);
    assert!(matches!(again, Err(Refused::Execute(ExecuteError::Changed(_)))), "{again:?}");
    assert_eq!(machine.undo(Runtime::Docker), 1);
    assert_eq!(machine.text("etc/docker/daemon.json").as_deref(), Some("{\"mine\": 1}"));
}

/// An attendant that asks for the end after this many steps.
struct Impatient {
    steps: usize,
    commands: usize,
}

impl Attendant for Impatient {
    fn run(&mut self, _: &Command) -> Result<(), String> {
        self.commands += 1;
        Ok(())
    }

    fn report(&mut self, _: Step<'_>) {
        self.steps = self.steps.saturating_sub(1);
    }

    fn is_interrupted(&self) -> bool {
        self.steps == 0
    }
}

#[test]
fn a_run_that_is_interrupted_anywhere_is_taken_back() {
    for runtime in RUNTIMES {
        for earlier in [None, Some(Mode::Redirect)] {
            for steps in 0.. {
                let mut machine = Machine::new();
                if let Some(mode) = earlier {
                    machine.set_up(runtime, mode).expect("set up");
                }
                let before = machine.tree();
                let (host, (mine, others)) = (machine.host(), machine.journals(runtime));
                let view = host.before(journal::before(mine.as_slice()));
                let plan = plan(runtime, Mode::Proxy, &view, &target(), &Found::default()).expect("a plan");
                let journal = Journal::new(runtime, Mode::Proxy, "192.168.1.5", 3128, &target().ca_sha256);
                let mut impatient = Impatient { steps, commands: 0 };
                let outcome = apply(&host, &plan, journal, mine.as_ref(), &others, &mut impatient);
                let Err(ExecuteError::TakenBack { failure, aftermath }) = outcome else {
                    assert!(outcome.is_ok() && steps > 2, "{runtime:?} after {steps} steps");
                    break;
                };
                assert!(matches!(*failure, ExecuteError::Interrupted), "{failure:?}");
                assert_eq!(aftermath, Aftermath::AsBefore, "{runtime:?} after {steps} steps");
                assert_eq!(differences(&before, &machine.tree()), NONE, "{runtime:?} after {steps} steps");
                assert!(impatient.commands > 0, "the way back runs its commands");
            }
        }
    }
}
