//! The trust stores of distributions, in one table: the place for a certificate that the administrator trusts, and the
//! command that takes it up.

use super::host::Host;
use super::plan::{Plan, PlanError, command};

/// A distribution's trust store.
struct Store {
    /// The folder by which the store is recognised.
    folder: &'static str,
    /// The program that rebuilds the bundles.
    program: &'static str,
    /// The file of our certificate.
    anchor: &'static str,
    refresh: &'static [&'static str],
    /// The command after a certificate was removed.
    refresh_after_removal: &'static [&'static str],
}

/// The first store that fits is used. SUSE has Debian's program with folders of its own, so it comes before Debian.
const STORES: [Store; 4] = [
    // SUSE
    Store {
        folder: "/etc/pki/trust/anchors",
        program: "update-ca-certificates",
        anchor: "/etc/pki/trust/anchors/entrepot.crt",
        refresh: &["update-ca-certificates"],
        refresh_after_removal: &["update-ca-certificates"],
    },
    // Debian, Ubuntu, Alpine
    Store {
        folder: "/etc/ssl/certs",
        program: "update-ca-certificates",
        anchor: "/usr/local/share/ca-certificates/entrepot.crt",
        refresh: &["update-ca-certificates"],
        refresh_after_removal: &["update-ca-certificates", "--fresh"],
    },
    // Fedora and Enterprise Linux
    Store {
        folder: "/etc/pki/ca-trust/source/anchors",
        program: "update-ca-trust",
        anchor: "/etc/pki/ca-trust/source/anchors/entrepot.crt",
        refresh: &["update-ca-trust", "extract"],
        refresh_after_removal: &["update-ca-trust", "extract"],
    },
    // Arch
    Store {
        folder: "/etc/ca-certificates/trust-source/anchors",
        program: "update-ca-trust",
        anchor: "/etc/ca-certificates/trust-source/anchors/entrepot.crt",
        refresh: &["update-ca-trust"],
        refresh_after_removal: &["update-ca-trust"],
    },
];

/// The bundles that programs read; a machine has one of them.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
];

/// Adds the certificate to the plan as one that this machine trusts.
pub(super) fn trust(host: &Host, ca_pem: &str, plan: &mut Plan) -> Result<(), PlanError> {
    let fits = |store: &&Store| host.at(store.folder).is_dir() && host.has_program(store.program);
    let store = STORES.iter().find(fits).ok_or(PlanError::NoTrustStore)?;
    plan.write(store.anchor, ca_pem);
    plan.commands.push(command(store.refresh));
    plan.undo_commands.push(command(store.refresh_after_removal));
    Ok(())
}

/// Whether this machine's bundle has the certificate; None if there is no known bundle.
pub(super) fn is_trusted(host: &Host, ca_pem: &str) -> Option<bool> {
    let bundle = BUNDLES.iter().find_map(|path| host.text(path).ok().flatten())?;
    let body = |pem: &str| pem.split_whitespace().collect::<String>();
    Some(body(&bundle).contains(&body(ca_pem)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_family_has_its_place() {
        for (folders, program, anchor, refresh) in [
            (
                &["etc/ssl/certs"][..],
                "update-ca-certificates",
                "/usr/local/share/ca-certificates/entrepot.crt",
                "--fresh",
            ),
            (
                &["etc/ssl/certs", "etc/pki/trust/anchors"],
                "update-ca-certificates",
                "/etc/pki/trust/anchors/entrepot.crt",
                "update-ca-certificates",
            ),
            (
                &["etc/ssl/certs", "etc/pki/ca-trust/source/anchors"],
                "update-ca-trust",
                "/etc/pki/ca-trust/source/anchors/entrepot.crt",
                "extract",
            ),
            (
                &["etc/ca-certificates/trust-source/anchors"],
                "update-ca-trust",
                "/etc/ca-certificates/trust-source/anchors/entrepot.crt",
                "update-ca-trust",
            ),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let root = folder.path();
            fs::create_dir_all(root.join("usr/sbin")).expect("made");
            fs::write(root.join("usr/sbin").join(program), "").expect("written");
            for name in folders {
                fs::create_dir_all(root.join(name)).expect("made");
            }
            let mut plan = Plan::default();
            trust(&Host::new(root), "PEM", &mut plan).expect("a store");
            assert_eq!((plan.files[0].path.as_str(), &plan.files[0].content[..]), (anchor, &b"PEM"[..]));
            assert_eq!(plan.undo_commands[0].last().map(String::as_str), Some(refresh), "{anchor}");
        }
        let bare = tempfile::tempdir().expect("a folder");
        let refused = trust(&Host::new(bare.path()), "PEM", &mut Plan::default());
        assert!(matches!(refused, Err(PlanError::NoTrustStore)));
    }

    #[test]
    fn a_bundle_tells_what_is_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = Host::new(folder.path());
        assert_eq!(is_trusted(&host, "A"), None);
        fs::create_dir_all(folder.path().join("etc/ssl/certs")).expect("made");
        fs::write(folder.path().join("etc/ssl/certs/ca-certificates.crt"), "B\nEG\nIN\n").expect("written");
        assert_eq!((is_trusted(&host, "BEG\nIN"), is_trusted(&host, "other")), (Some(true), Some(false)));
    }
}
