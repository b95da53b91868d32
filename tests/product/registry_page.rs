//! The registry's page for people, used as by a browser: it shows the image that docker pushed, deletes it after a
//! question, and the next pull fails. If `chromium` is installed, it shows the page too. It is too large to be
//! installed for a test.

use std::path::Path;
use std::time::Duration;

use entrepot_tests::clients::Client;
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::process::finish;
use entrepot_tests::upstream::{HUB, Upstream};
use entrepot_tests::world::{REGISTRY, World};

pub(crate) const ORIGIN: &str = "https://docker-registry.local:5443";

/// A page's text.
pub(crate) fn page(client: &Client<'_>, path: &str) -> String {
    client.curl(&["-f", &format!("{ORIGIN}{path}")]).expect_success(path).stdout
}

/// Fills in and sends the form on a page, as a person's browser does. Returns the page after it.
pub(crate) fn send(client: &Client<'_>, page: &str, action: &str, origin: &str) -> String {
    let field = |rest: &str, name: &str| {
        let value = rest.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        value.map(|(value, _)| value.to_owned()).expect("a quoted attribute")
    };
    let fields = page.split("<input type=\"hidden\"").skip(1);
    let fields = fields.map(|input| format!("{}={}", field(input, "name"), field(input, "value")));
    let (form, header) = (fields.collect::<Vec<_>>().join("&"), format!("Origin: {origin}"));
    let url = format!("{ORIGIN}{action}");
    let told = ["-H", &header, "-d", &form, "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", &url];
    client.curl(&told).expect_success(action).stdout
}

/// The page as a browser renders it. None if there is no browser.
fn looked_at(client: &Client<'_>, path: &str) -> Option<String> {
    Path::new("/usr/bin/chromium").exists().then(|| {
        let mut command = client.command("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--dump-dom"]);
        command.arg(format!("{ORIGIN}{path}"));
        finish(client.namespace(), command, Duration::from_secs(60)).expect_success("chromium").stdout
    })
}

#[test]
fn a_person_deletes_by_the_page_what_docker_pushed() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    hub.publish(&images::busybox(), "library/busybox", "1.36");
    let entrepot = Entrepot::start(&world, Settings::new());
    let behind = entrepot.client();
    let docker = Dockerd::start(&behind);
    docker.pull("busybox:1.36").expect_success("docker pull");
    let names = ["v1", "v2"].map(|tag| format!("{REGISTRY}/team/app:{tag}"));
    for name in &names {
        docker.docker(&["tag", "busybox:1.36", name]).expect_success("docker tag");
        docker.docker(&["push", "-q", name]).expect_success("docker push");
    }
    docker.forget();

    let client = entrepot.neighbour();
    for list in [Some(page(&client, "/registry/")), looked_at(&client, "/registry/")].into_iter().flatten() {
        assert!(list.contains(">team/app</a>"), "{list}");
    }
    let tags = page(&client, "/registry/repository?name=team/app");
    let platform = format!("linux/{}", images::ARCHITECTURE);
    assert!(tags.contains(">v1<") && tags.contains(">v2<") && tags.contains(&platform), "{tags}");

    let question = page(&client, "/registry/delete?name=team/app&tag=v1");
    let forged = send(&client, &question, "/registry/delete", "https://evil.example");
    assert!(forged.starts_with("403 "), "{forged}");
    docker.pull(&names[0]).expect_success("docker pull: a page of another site deletes nothing");
    docker.forget();
    let done = send(&client, &question, "/registry/delete", ORIGIN);
    assert_eq!(done, format!("303 {ORIGIN}/registry/repository?name=team/app&done=tag"));
    let gone = docker.pull(&names[0]).expect_failure("docker pull of what was deleted");
    assert!(gone.stderr.contains("manifest unknown") || gone.stderr.contains("not found"), "{}", gone.stderr);
    docker.pull(&names[1]).expect_success("the other tag is still there");
    assert!(!page(&client, "/registry/repository?name=team/app").contains(">v1<"));
}
