//! `provision/appliance` on the tree of a machine that does not run: a Debian, the looks of an Enterprise Linux,
//! refusals, and an administrator's files that stay. Also the units as systemd judges them, `provision/configure` and
//! the package.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use entrepot_tests::entrepot::binary;
use entrepot_tests::machine::{debian_tree, repository};
use tempfile::TempDir;

/// A test's own tree.
struct Tree {
    _folder: TempDir,
    root: PathBuf,
}

/// The exit status of a command, and its whole output.
struct Outcome {
    code: i32,
    said: String,
}

impl Tree {
    /// The files of a machine that `provision/appliance` reads, and no others.
    fn looks_like(os_release: &str, bundle: &str) -> Self {
        let tree = Self::empty();
        for (path, text) in [("etc/os-release", os_release), (bundle, "certificates\n")] {
            tree.write(path, text);
        }
        for folder in ["usr/bin", "usr/lib/systemd/system", "var/lib"] {
            fs::create_dir_all(tree.at(folder)).expect("a folder");
        }
        tree
    }

    fn debian_looks() -> Self {
        Self::looks_like("ID=debian\nVERSION_ID=13\n", "etc/ssl/certs/ca-certificates.crt")
    }

    /// A complete Debian.
    fn debian() -> Self {
        let tree = Self::empty();
        run("cp", &["-a", &format!("{}/.", debian_tree().display()), &tree.text()]).expect_code(0);
        tree
    }

    fn empty() -> Self {
        let folder = tempfile::Builder::new().prefix("ent-tree-").tempdir().expect("a folder");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("a folder");
        Self { _folder: folder, root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn text(&self) -> String {
        self.root.display().to_string()
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().expect("a folder")).expect("a folder");
        fs::write(self.at(path), text).expect("a file");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn provision(&self, arguments: &[&str]) -> Outcome {
        let (root, binary) = (self.text(), binary().display().to_string());
        let script = repository().join("provision/appliance").display().to_string();
        run(&script, &[&["--root", &root, "--binary", &binary][..], arguments].concat())
    }

    /// Every file with its kind and content.
    fn snapshot(&self) -> String {
        let script = "{ find . -printf '%p %M %U %G %l\\n'; find . -type f -exec sha256sum {} +; } | sort";
        run("sh", &["-c", &format!("cd {} && {script}", self.text())]).expect_code(0).said
    }

    fn chroot(&self, script: &str) -> Outcome {
        run("chroot", &[&self.text(), "sh", "-c", script])
    }
}

impl Outcome {
    #[track_caller]
    fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.said);
        self
    }

    /// Asserts that the output is one line with this text.
    #[track_caller]
    fn expect_line(self, code: i32, part: &str) {
        assert!(self.code == code && self.said.contains(part), "{code} and {part:?}: {}: {}", self.code, self.said);
        assert_eq!(self.said.lines().count(), 1, "{}", self.said);
    }
}

fn run(program: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    let output =
        command.output().unwrap_or_else(|error| panic!("{program}: {error} (tests/run installs what is missing)"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Outcome { code: output.status.code().unwrap_or(-1), said: said.into_owned() }
}

#[test]
fn a_debian_tree_is_prepared_once_and_its_systemd_accepts_the_units() {
    let tree = Tree::debian();
    tree.provision(&["--redirect"]).expect_code(0);
    let before = tree.snapshot();
    let again = tree.provision(&["--redirect"]).expect_code(0);
    assert!(again.said.contains("nothing to change in"), "{}", again.said);
    assert!(before.lines().count() > 1000 && before == tree.snapshot(), "the second run changed a file");

    assert!(tree.read("etc/passwd").lines().any(|line| line.starts_with("entrepot:")), "{}", tree.read("etc/passwd"));
    for unit in ["entrepot.service", "entrepot-redirect.service"] {
        assert!(
            tree.at(&format!("etc/systemd/system/multi-user.target.wants/{unit}")).is_symlink(),
            "{unit} is enabled"
        );
        let verified = tree.chroot(&format!("systemd-analyze verify --man=no {unit} 2>&1 | grep entrepot || true"));
        assert_eq!(verified.expect_code(0).said, "", "systemd-analyze verify {unit}");
        let judged = tree.chroot(&format!("systemd-analyze security --offline=true --threshold=20 {unit}"));
        judged.expect_code(0);
    }
    let checked = tree.chroot("entrepot check").expect_code(0);
    assert!(checked.said.contains("\"[::]:443\""), "{}", checked.said);
}

#[test]
fn one_switch_makes_a_gateway_of_a_tree() {
    let tree = Tree::debian_looks();
    tree.provision(&["--gateway", "lan0"]).expect_code(0);
    let server = tree.read("etc/systemd/system/entrepot.service.d/gateway.conf");
    for line in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert!(server.contains(&format!("{line}=CAP_NET_BIND_SERVICE CAP_NET_ADMIN")), "{server}");
    }
    let agent = tree.read("etc/systemd/system/entrepot-redirect.service.d/gateway.conf");
    assert!(agent.contains("Environment=\"ENTREPOT_REDIRECT=gateway --interface lan0\""), "{agent}");
    assert!(tree.at("etc/systemd/system/multi-user.target.wants/entrepot-redirect.service").is_symlink());
    let again = tree.provision(&["--gateway", "lan0"]).expect_code(0);
    assert!(again.said.contains("nothing to change in"), "{}", again.said);
    for name in ["", "lan 0", "-x", "lan0;reboot"] {
        tree.provision(&["--gateway", name]).expect_code(64);
    }
}

#[test]
fn an_enterprise_linux_needs_nothing_that_only_debian_has() {
    for (os_release, bundle) in [
        ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.5\"\n", "etc/pki/tls/certs/ca-bundle.crt"),
        ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04\n", "etc/ssl/certs/ca-certificates.crt"),
    ] {
        let tree = Tree::looks_like(os_release, bundle);
        let said = tree.provision(&[]).expect_code(0).said;
        assert!(!said.contains("untested") && tree.at("usr/bin/entrepot").exists(), "{said}");
        assert!(tree.read("etc/passwd").contains("entrepot:"), "{said}");
        tree.provision(&[]).expect_line(0, "nothing to change");
    }
    let unknown = Tree::looks_like("ID=slackware\n", "etc/ssl/cert.pem").provision(&[]).expect_code(0);
    assert!(unknown.said.contains("slackware") && unknown.said.contains("untested"), "{}", unknown.said);
}

#[test]
fn an_env_file_is_read_as_compose_reads_it_and_never_executed() {
    let tree = Tree::debian_looks();
    let file = tree.root.with_file_name("dotenv");
    let text = "# docker-registry-proxy\r\nexport REGISTRIES=\"reg.example quay.example\"\r\n\nCACHE_MAX_SIZE=64g # much\n\
                AUTH_REGISTRIES='reg.example:robot:a$(touch${IFS}/tmp/never)`b`\"c\\d'\nENABLE_MANIFEST_CACHE = true\n";
    fs::write(&file, text).expect("a file");
    let path = file.display().to_string();
    tree.provision(&["--env", &path]).expect_code(0);
    let written = tree.read("etc/entrepot/entrepot.env");
    let lines: Vec<&str> = written.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        lines,
        [
            r#"REGISTRIES="reg.example quay.example""#,
            r#"CACHE_MAX_SIZE="64g""#,
            r#"AUTH_REGISTRIES="reg.example:robot:a\$(touch\${IFS}/tmp/never)\`b\`\"c\\d""#,
            r#"ENABLE_MANIFEST_CACHE="true""#,
        ]
    );
    tree.provision(&["--env", &path]).expect_line(0, "nothing to change");
    // The script replaces its own file, but not a file of another program.
    fs::write(&file, "CACHE_MAX_SIZE=10g\n").expect("a file");
    tree.provision(&["--env", &path]).expect_code(0);
    assert!(tree.read("etc/entrepot/entrepot.env").contains("10g"));
    tree.write("etc/entrepot/entrepot.env", "CACHE_MAX_SIZE=20g\n");
    fs::write(&file, "CACHE_MAX_SIZE=30g\n").expect("a file");
    tree.provision(&["--env", &path]).expect_line(78, "not as it was installed");
    assert_eq!(tree.read("etc/entrepot/entrepot.env"), "CACHE_MAX_SIZE=20g\n");
}

#[test]
fn what_is_bad_is_one_line_and_changes_nothing() {
    let tree = Tree::debian_looks();
    let dotenv = tree.root.with_file_name("dotenv");
    let path = dotenv.display().to_string();
    let before = tree.snapshot();
    tree.provision(&["--env", "/nonexistent/.env"]).expect_line(66, "--env /nonexistent/.env cannot be read");
    for (text, part) in [
        ("REGISTRIES=ok\nnonsense\n", "line 2 is not NAME=VALUE"),
        ("AUTH_REGISTRIES=\"secret", "line 1 has a quote that is not closed"),
        ("ALLOW_PUSH=maybe\n", "ALLOW_PUSH: \"maybe\" is neither true nor false"),
    ] {
        fs::write(&dotenv, text).expect("a file");
        let outcome = tree.provision(&["--env", &path]);
        assert!(!outcome.said.contains("secret"), "{}", outcome.said);
        outcome.expect_line(78, part);
    }
    tree.provision(&["--binary", "/bin/true"]).expect_line(78, "is not entrepot");
    tree.provision(&["--binary", "/nonexistent"]).expect_line(66, "cannot be read");
    tree.provision(&["--unknown"]).expect_line(64, "unknown option --unknown");
    tree.provision(&["--env"]).expect_line(64, "--env needs a value");
    assert_eq!(before, tree.snapshot());

    let script = repository().join("provision/appliance").display().to_string();
    run("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups", &script]).expect_line(77, "needs root");
    run(&script, &["--root", "/nonexistent"]).expect_line(66, "is no directory");
    run(&script, &["--root", "/proc/1"]).expect_code(69);
}

#[test]
fn what_somebody_else_put_there_is_never_replaced() {
    for (path, text, part) in [
        ("usr/bin/entrepot", "#!/bin/sh\n", "somebody else's program"),
        ("etc/systemd/system/entrepot.service", "[Service]\n", "hides the unit"),
        ("var/lib/dpkg/info/entrepot.list", "/usr/bin/entrepot\n", "Debian package"),
        ("etc/entrepot/entrepot.toml", "nonsense = 1\n", "nonsense"),
    ] {
        let tree = Tree::debian_looks();
        tree.write(path, text);
        let before = tree.snapshot();
        tree.provision(&[]).expect_line(78, part);
        assert_eq!(before, tree.snapshot(), "{path}");
    }
    let masked = Tree::debian_looks();
    fs::create_dir_all(masked.at("etc/systemd/system")).expect("a folder");
    symlink("/dev/null", masked.at("etc/systemd/system/entrepot.service")).expect("a link");
    masked.provision(&[]).expect_line(78, "unmask");

    // A good configuration of an administrator stays. All other steps are done.
    let tree = Tree::debian_looks();
    tree.provision(&[]).expect_code(0);
    let htpasswd = format!("alice:$2y$05${}\n", "a".repeat(53));
    tree.write("etc/entrepot/htpasswd", &htpasswd);
    let file = tree.at("etc/entrepot/htpasswd").display().to_string();
    let own = format!("data_dir = \"/srv/images\"\n[registry]\nanonymous = \"none\"\nhtpasswd = \"{file}\"\n");
    tree.write("etc/entrepot/entrepot.toml", &own);
    let said = tree.provision(&[]).expect_code(0).said;
    assert!(said.contains("entrepot.toml has been changed here and stays as it is"), "{said}");
    assert_eq!(tree.read("etc/entrepot/entrepot.toml"), own);
}

#[test]
fn an_appliance_from_before_the_key_keeps_taking_pushes() {
    // As an earlier release left it: the file that it recorded is replaced, and has the key.
    let tree = Tree::debian_looks();
    tree.provision(&[]).expect_code(0);
    let new = tree.read("etc/entrepot/entrepot.toml");
    assert!(new.contains("\nanonymous = \"push\"\n"), "{new}");
    let old: String = new.lines().filter(|line| !line.contains("anonymous")).map(|line| format!("{line}\n")).collect();
    tree.write("etc/entrepot/entrepot.toml", &old);
    let sum = run("sha256sum", &[&tree.at("etc/entrepot/entrepot.toml").display().to_string()]).said;
    let sum = sum.split(' ').next().expect("a sum");
    tree.write("etc/entrepot/.provisioned", &format!("{sum}  entrepot.toml\n"));
    tree.provision(&[]).expect_code(0);
    assert_eq!(tree.read("etc/entrepot/entrepot.toml"), new);

    // One that an administrator made of it stays, but for the key.
    let own = old.replace("[registry]\n", "[registry] # ours\ngrace = \"2h\"\n");
    tree.write("etc/entrepot/entrepot.toml", &own);
    run("chmod", &["640", &tree.at("etc/entrepot/entrepot.toml").display().to_string()]).expect_code(0);
    run("chown", &["0:7", &tree.at("etc/entrepot/entrepot.toml").display().to_string()]).expect_code(0);
    let said = tree.provision(&[]).expect_code(0).said;
    assert!(said.contains("registry.anonymous = \"push\" was added"), "{said}");
    let text = tree.read("etc/entrepot/entrepot.toml");
    let without = text.replace("anonymous = \"push\"\n", "");
    assert!(text.contains("anonymous = \"push\"") && without == own, "{text}");
    let modes = run("stat", &["-c", "%a %u %g", &tree.at("etc/entrepot/entrepot.toml").display().to_string()]).said;
    assert_eq!(modes, "640 0 7\n");
    tree.provision(&[]).expect_code(0);
    assert_eq!(tree.read("etc/entrepot/entrepot.toml"), text, "once");

    // A host's registry has the default of the program.
    let host = Tree::debian_looks();
    let configuration = repository().join("provision/host.toml").display().to_string();
    host.provision(&["--configuration", &configuration]).expect_code(0);
    host.write("etc/entrepot/entrepot.toml", "data_dir = \"/srv/images\"\n");
    host.provision(&["--configuration", &configuration]).expect_code(0);
    assert_eq!(host.read("etc/entrepot/entrepot.toml"), "data_dir = \"/srv/images\"\n");
}

#[test]
fn where_a_file_cannot_be_written_none_is() {
    let tree = Tree::debian_looks();
    // A file in the place of a folder stops root too.
    tree.write("usr/lib/sysusers.d", "");
    let before = tree.snapshot();
    tree.provision(&[]).expect_line(73, "nothing was changed: cannot write");
    assert_eq!(before, tree.snapshot());
}

#[test]
fn the_package_installs_in_a_debian_and_leaves_it() {
    let tree = Tree::debian();
    let output = tree.root.with_file_name("package");
    let (script, binary) =
        (repository().join("provision/package").display().to_string(), binary().display().to_string());
    let folder = output.display().to_string();
    let built = |folder: &str| run(&script, &["--binary", &binary, "--output", folder]).expect_code(0);
    built(&folder);
    let package = fs::read_dir(&output).expect("a folder").next().expect("a package").expect("an entry").path();
    let first = fs::read(&package).expect("the package");
    built(&folder);
    assert!(first == fs::read(&package).expect("the package"), "the same inputs make the same package");

    fs::copy(&package, tree.at("entrepot.deb")).expect("a copy");
    // Libraries and tools are there. Recommended ones may be missing.
    let installed = tree.chroot("dpkg -i /entrepot.deb").expect_code(0);
    assert!(tree.read("etc/passwd").contains("entrepot:"), "{}", installed.said);
    assert!(tree.at("etc/systemd/system/multi-user.target.wants/entrepot.service").is_symlink());
    assert!(!tree.at("etc/systemd/system/multi-user.target.wants/entrepot-redirect.service").is_symlink());
    tree.chroot("entrepot check && dpkg --verify entrepot").expect_code(0);
    tree.chroot("yes '' | entrepot-configure").expect_code(0);
    tree.provision(&[]).expect_line(78, "Debian package");
    // An administrator's change survives an upgrade.
    tree.chroot("printf '[cache]\\nmax_size = \"5g\"\\n' >>/etc/entrepot/entrepot.toml").expect_code(0);
    tree.chroot("dpkg -i /entrepot.deb").expect_code(0);
    assert!(tree.read("etc/entrepot/entrepot.toml").contains("5g"));
    tree.chroot("mkdir -p /var/lib/entrepot/pushed; dpkg -r entrepot").expect_code(0);
    assert!(!tree.at("usr/bin/entrepot").exists() && tree.at("etc/entrepot/entrepot.toml").exists());
    tree.chroot("dpkg --purge entrepot").expect_code(0);
    assert!(!tree.at("etc/entrepot").exists() && tree.at("var/lib/entrepot/pushed").exists());
}

#[test]
fn questions_are_answered_by_a_pipe_and_change_only_their_lines() {
    let tree = Tree::empty();
    let file = tree.at("entrepot.toml");
    let path = file.display().to_string();
    let before = "# mine\ndata_dir = \"/srv/images\"\n\n[cache] # big\n#max_size = \"32g\"\nmin_free = \"2g\"\n\n\
                  [intercept]\nregistries = [\n  \"old.example\",\n]\n";
    fs::write(&file, before).expect("a file");
    let configure = |answers: &str| {
        let script = repository().join("provision/configure").display().to_string();
        let line = format!("printf '%s' \"$1\" | '{script}' --config '{path}' --binary '{}'", binary().display());
        run("sh", &["-c", &line, "sh", answers])
    };
    let asked = configure("\n").expect_code(0);
    assert!(asked.said.contains("[old.example]") && asked.said.contains("nothing changed in"), "{}", asked.said);
    assert_eq!(tree.read("entrepot.toml"), before);

    let refused = configure("\nghcr.io\nrobot\ncanary-1\n\nlots\n").expect_code(78);
    assert!(refused.said.contains("nothing was changed") && refused.said.contains("\"lots\""), "{}", refused.said);
    assert!(!refused.said.contains("canary") && tree.read("entrepot.toml") == before, "{}", refused.said);
    assert!(!tree.at("passwords").exists());

    configure("reg.example:5000 *.azurecr.io\nghcr.io\nrobot\ncan\"ary\\2\n\n64g\npush\n").expect_code(0);
    let folder = tree.at("passwords/ghcr.io").display().to_string();
    let after = format!(
        "# mine\ndata_dir = \"/srv/images\"\n\n[cache] # big\n#max_size = \"32g\"\nmin_free = \"2g\"\nmax_size = \"64g\"\n\n\
         [intercept]\nregistries = [\"reg.example:5000\", \"*.azurecr.io\"]\n\n\
         [[credentials]]\nregistry = \"ghcr.io\"\nusername = \"robot\"\npassword_file = \"{folder}\"\n\n\
         [registry]\nanonymous = \"push\"\n"
    );
    assert_eq!(tree.read("entrepot.toml"), after);
    assert_eq!(tree.read("passwords/ghcr.io"), "can\"ary\\2\n");
    assert_eq!(run("stat", &["-c", "%a", &folder]).said, "640\n");

    // Another account for the same registry replaces the first. Empty answers keep the rest.
    configure("\nghcr.io\nother\ncanary-3\n").expect_code(0);
    let text = tree.read("entrepot.toml");
    assert!(text.contains("username = \"other\"") && !text.contains("robot"), "{text}");
    assert_eq!(tree.read("passwords/ghcr.io"), "canary-3\n");
}
