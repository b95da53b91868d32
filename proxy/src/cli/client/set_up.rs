//! `entrepot client setup`, in this order: it finds the appliance, checks its certificate, asks for consent, and pulls
//! a manifest. Then it makes the change and pulls again.

use std::io::{self, IsTerminal};
use std::process::Stdio;

use nix::sys::stat::{Mode as FileMode, umask};

use super::interrupts::Interrupts;
use super::{AtWork, CameOfIt, ClientError, Out, SetupOptions, require_root};
use crate::cli::output;
use entrepot_setup::client::appliance::{Appliance, ask, find};
use entrepot_setup::client::containerd_version::ContainerdVersion;
use entrepot_setup::client::execute::{ExecuteError, apply};
use entrepot_setup::client::host::Host;
use entrepot_setup::client::journal::{Journal, before};
use entrepot_setup::client::plan::Plan;
use entrepot_setup::client::runtimes::{self, Found};
use entrepot_setup::client::steps::shown;
use entrepot_setup::client::target::Target;
use entrepot_setup::client::verify::{Image, Trust, Verdict, verify};
use entrepot_setup::client::{Mode, Runtime};
use entrepot_setup::discovery::facts::normal_fingerprint;

/// Sets up one runtime. If a step fails, the machine stays as it was before: without a set-up, or with the earlier one.
pub(super) async fn set_up(
    options: &SetupOptions,
    host: &Host,
    interrupts: &Interrupts,
    out: &mut Out,
) -> Result<(), ClientError> {
    let expected = options.ca_sha256.as_deref().map(fingerprint).transpose()?;
    let image = Image::parse(&options.verify_image).ok_or_else(|| ClientError::Image(options.verify_image.clone()))?;
    if !options.dry_run {
        require_root()?;
    }
    let (name, proxy) = find(options.appliance.as_deref())?;
    let appliance = ask(name, proxy).await?;
    match &expected {
        Some(expected) => appliance.expect(expected)?,
        None if options.dry_run => out.line(format_args!("the appliance's CA has SHA-256 {}", appliance.ca.sha256)),
        None => confirm(&appliance)?,
    }
    let target = target(options, &appliance);
    let journals = Journal::all(host)?;
    let (mine, others): (Vec<Journal>, Vec<Journal>) =
        journals.into_iter().partition(|journal| journal.runtime == options.runtime);
    let found = Found {
        kind_nodes: if options.runtime == Runtime::Kind { kind_nodes() } else { Vec::new() },
        containerd: if options.runtime == Runtime::Containerd { containerd_version() } else { None },
    };
    let as_it_was = host.before(before(&mine));
    let plan = runtimes::plan(options.runtime, options.mode, &as_it_was, &target, &found)?;
    if options.dry_run {
        show(&plan, out);
        return Ok(());
    }
    // In redirect mode a pull cannot succeed yet: it is led to the appliance, whose certificate is not trusted here.
    if !options.no_verify && options.mode != Mode::Redirect {
        let verdict = verify((options.runtime, options.mode), &appliance, &target, &image, Trust::Appliance).await?;
        if let Some(reason) = verdict.failure(options.mode, &image) {
            let came_of_it = CameOfIt::Unchanged;
            return Err(ClientError::Unverified { proxy: appliance.proxy, reason, came_of_it });
        }
    }
    // Every program of this machine may read the new files.
    umask(FileMode::S_IWGRP | FileMode::S_IWOTH);
    interrupts.begin("the changes are taken back");
    out.line(format_args!("setting up {} with {} ({})", options.runtime.word(), target.host, options.mode.word()));
    let journal = Journal::new(options.runtime, options.mode, &target.host, target.proxy_port, &appliance.ca.sha256);
    let mut at_work = AtWork { interrupts: Some(interrupts), out };
    let change = apply(host, &plan, journal, mine.first(), &others, &mut at_work).map_err(|error| match error {
        ExecuteError::TakenBack { failure, aftermath } => match (*failure, interrupts.caught()) {
            (ExecuteError::Interrupted, Some(signal)) => ClientError::Interrupted { signal, aftermath },
            (failure, _) => ExecuteError::TakenBack { failure: Box::new(failure), aftermath }.into(),
        },
        error => error.into(),
    })?;
    let mut works = Ok(());
    if !options.no_verify && options.runtime != Runtime::Kind {
        let way = (options.runtime, options.mode);
        let verdict = tokio::select! {
            verdict = verify(way, &appliance, &target, &image, Trust::Machine) => verdict,
            () = interrupts.wait() => Ok(Verdict::Failed("interrupted".to_owned())),
        };
        let verdict = verdict.unwrap_or_else(|error| Verdict::Failed(error.to_string()));
        works = does_it_work(options.mode, verdict, &appliance, &image, at_work.out);
    }
    // The way back is not interrupted.
    at_work.interrupts = None;
    let caught = if works.is_ok() { interrupts.end() } else { interrupts.caught() };
    match (change, works, caught) {
        (Some(change), _, Some(signal)) => {
            let aftermath = change.take_back(host, &mut at_work);
            return Err(ClientError::Interrupted { signal, aftermath });
        }
        (change, Err(reason), _) => {
            let came_of_it = match change {
                None => CameOfIt::Stays,
                Some(change) => CameOfIt::WentBack(change.take_back(host, &mut at_work)),
            };
            return Err(ClientError::Unverified { proxy: appliance.proxy, reason, came_of_it });
        }
        (_, Ok(()), _) => {}
    }
    plan.notes.iter().for_each(|note| out.line(format_args!("note: {note}")));
    out.line(format_args!("back again: entrepot client undo --runtime {}", options.runtime.word()));
    Ok(())
}

fn fingerprint(text: &str) -> Result<String, ClientError> {
    normal_fingerprint(text).ok_or_else(|| ClientError::Fingerprint(text.to_owned()))
}

fn target(options: &SetupOptions, appliance: &Appliance) -> Target {
    Target {
        host: appliance.host_for(options.runtime),
        // This is the port at which the appliance was reached. The appliance does not know of a mapped port.
        proxy_port: appliance.proxy.port(),
        registry_http_port: appliance.facts.registry_http_port,
        registry_https_port: appliance.facts.registry_https_port,
        docker_mirror_port: appliance.facts.docker_mirror_port,
        ca_pem: appliance.ca.pem.clone(),
        ca_sha256: appliance.ca.sha256.clone(),
        registries: options.registry.clone(),
    }
}

fn confirm(appliance: &Appliance) -> Result<(), ClientError> {
    if !io::stdin().is_terminal() {
        return Err(ClientError::Unconfirmed(appliance.ca.sha256.clone()));
    }
    let question = format!(
        "{} has a CA certificate with SHA-256\n  {}\nThe appliance's console shows the same? This machine will trust it \
         for every name.",
        appliance.proxy, appliance.ca.sha256
    );
    if output::ask(&question) == Some(true) { Ok(()) } else { Err(ClientError::Declined) }
}

/// Prints the result of the pull after the set-up. The error is the reason why pulls do not go through the appliance.
fn does_it_work(
    mode: Mode,
    verdict: Verdict,
    appliance: &Appliance,
    image: &Image,
    out: &mut Out,
) -> Result<(), String> {
    let proxy = appliance.proxy;
    match &verdict {
        Verdict::Pulled => out.line(format_args!("  pulled    the manifest of {image} through {proxy}")),
        Verdict::Answered(said) => {
            out.line(format_args!("  asked     for {image} through {proxy}; the answer was {said}"));
        }
        Verdict::Bypassed(_) | Verdict::Failed(_) => {}
    }
    match (verdict.failure(mode, image), mode) {
        (None, _) => Ok(()),
        // Trust comes before the redirect: no connection goes to the appliance until the redirect is there.
        (Some(reason), Mode::Redirect) => {
            out.line(format_args!(
                "note: no connection of this machine is led to {proxy} yet ({reason}); `entrepot redirect host --appliance {}` \
                 here does that, or `entrepot redirect gateway` on the machine that this one's connections pass",
                appliance.host
            ));
            Ok(())
        }
        (Some(reason), _) => Err(reason),
    }
}

fn show(plan: &Plan, out: &mut Out) {
    for file in &plan.files {
        out.line(format_args!("would write {}:", file.path));
        String::from_utf8_lossy(&file.content).lines().for_each(|line| out.line(format_args!("    {line}")));
    }
    for command in &plan.commands {
        out.line(format_args!("would run   {}", shown(command)));
    }
    plan.notes.iter().for_each(|note| out.line(format_args!("note: {note}")));
}

/// None if there is no containerd in the usual places.
fn containerd_version() -> Option<ContainerdVersion> {
    let output = std::process::Command::new("containerd").arg("--version").stdin(Stdio::null()).output().ok()?;
    ContainerdVersion::parse(&String::from_utf8_lossy(&output.stdout))
}

/// The containers of Kind's clusters. Empty if Docker is not installed here.
fn kind_nodes() -> Vec<String> {
    let listed = std::process::Command::new("docker")
        .args(["ps", "--filter", "label=io.x-k8s.kind.cluster", "--format", "{{.Names}}"])
        .output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    text.lines().map(str::trim).filter(|name| !name.is_empty()).filter(plain).map(str::to_owned).collect()
}
