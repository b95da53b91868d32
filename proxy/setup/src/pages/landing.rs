//! The appliance's page for people: its name, its addresses, its CA's fingerprint, and the one line for clients. It is
//! one HTML text without scripts, pictures or anything that is fetched.
//!
//! maud escapes all values. They were parsed before: hosts, addresses, hex digits.

use maud::{Markup, PreEscaped, html};
use qrcode::render::{svg, unicode};
use qrcode::{Color, EcLevel, QrCode};

use crate::client::target::Target;
use crate::discovery::facts::Facts;
use crate::first_line::first_line;
use entrepot_core::route::WEB_PATH;
use entrepot_net::page::Page;

/// The values that the page shows.
pub(super) struct View<'a> {
    /// The appliance as the asking client reaches it.
    pub(super) target: &'a Target,
    /// The announced name.
    pub(super) host: Option<String>,
    /// Every address of the local network.
    pub(super) addresses: Vec<String>,
    pub(super) facts: &'a Facts,
}

/// The scripts, each with its purpose.
const SCRIPTS: [(&str, &str); 4] =
    [("docker", "Docker Engine"), ("containerd", "containerd"), ("podman", "Podman"), ("k3s", "k3s")];

pub(super) fn page(view: &View<'_>) -> String {
    let (proxy, ca_sha256) = (view.target.proxy_url(), &view.target.ca_sha256);
    let mirror = view.target.mirror().ok();
    let line = |script| first_line(view.facts, &view.target.proxy_authority(), script).to_string();
    let body = html! {
        h1 { "entrepot" }
        p { "This machine caches container images: pull through it, and each image comes from its registry once." }
        table {
            (row("name", &html! { (view.host.as_deref().unwrap_or("not announced")) }))
            (row("addresses", &html! {
                @for (number, address) in view.addresses.iter().enumerate() {
                    @if number > 0 { br; }
                    (address)
                }
            }))
            (row("proxy", &html! { code { (proxy) } }))
            @if let Some(url) = mirror.map(|mirror| mirror.url()) {
                (row("registry", &html! {
                    code { (url) }
                    @if let Some(page) = view.target.registry_page() {
                        br; a href={ (page.url()) (WEB_PATH) } { "what is in it" }
                        @if !page.is_plain() { " (by TLS: for a browser that trusts the CA)" }
                    }
                }))
            }
            (row("CA, SHA-256", &html! { code { (ca_sha256) } }))
            (row("version", &html! { (view.facts.version) }))
        }
        h2 { "Join" }
        p {
            "Compare the fingerprint above, and the key in these lines, with what this machine's console shows. Then, on \
             the client:"
        }
        dl {
            @for (runtime, name) in SCRIPTS {
                dt { (name) }
                dd { code { (line(runtime)) } }
            }
            dt { "With this program there" }
            dd { code { "sudo entrepot client setup --runtime docker" } }
            dt { "Docker Desktop" }
            dd {
                a href="/setup/docker-desktop-mac" { "on a Mac" } ", "
                a href="/setup/docker-desktop-windows" { "on Windows" }
            }
            dt { "By hand" }
            dd {
                "trust " a href="/ca.crt" { "the CA's certificate" } " and give the daemon "
                code { "HTTPS_PROXY=" (proxy) }
            }
            dt { "Back" }
            dd { code { (line("undo")) } }
        }
        h2 { "This page, for a phone" }
        (picture(&link(&proxy, ca_sha256)))
    };
    Page { title: "entrepot", reload_after_s: None, is_wide: false, body }.into_string()
}

fn row(label: &str, value: &Markup) -> Markup {
    html! { tr { th { (label) } td { (value) } } }
}

/// The page's address with the fingerprint in it, so that a phone that scans the console's QR code can compare the two.
pub fn link(proxy_url: &str, ca_sha256: &str) -> String {
    format!("{proxy_url}?sha256={ca_sha256}")
}

/// A QR code for a terminal with light letters on dark; empty if the text does not fit.
pub fn terminal_code(text: &str) -> String {
    let render = |code: QrCode| {
        code.render::<unicode::Dense1x2>()
            .dark_color(unicode::Dense1x2::Light)
            .light_color(unicode::Dense1x2::Dark)
            .build()
    };
    QrCode::new(text).map(render).unwrap_or_default()
}

/// The same code as small as possible, for a screen of 25 rows: light blocks on dark, with a narrow margin.
pub(super) fn compact_code(text: &str) -> String {
    const MARGIN: usize = 2;
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else { return String::new() };
    let (width, colors) = (code.width(), code.to_colors());
    let is_lit = |x: usize, y: usize| match (x.checked_sub(MARGIN), y.checked_sub(MARGIN)) {
        (Some(x), Some(y)) if x < width && y < width => colors[y * width + x] == Color::Light,
        _ => true,
    };
    let side = width + 2 * MARGIN;
    let row = |y| (0..side).map(move |x| half_blocks(is_lit(x, y), is_lit(x, y + 1))).chain(['\n']);
    (0..side).step_by(2).flat_map(row).collect()
}

/// Two modules, one above the other, in one character.
fn half_blocks(upper: bool, lower: bool) -> char {
    match (upper, lower) {
        (true, true) => '█',
        (true, false) => '▀',
        (false, true) => '▄',
        (false, false) => ' ',
    }
}

/// A QR code as a picture; empty if the text does not fit.
fn picture(text: &str) -> Markup {
    let render = |code: QrCode| code.render::<svg::Color<'_>>().min_dimensions(180, 180).build();
    let svg = QrCode::new(text).map(render).unwrap_or_default();
    // HTML does not allow the XML declaration in front of the picture.
    PreEscaped(svg.find("<svg").map_or_else(String::new, |start| svg[start..].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(http: Option<u16>, https: Option<u16>) -> Target {
        Target {
            host: "docker-registry.local".to_owned(),
            proxy_port: 3128,
            registry_http_port: http,
            registry_https_port: https,
            docker_mirror_port: None,
            ca_pem: String::new(),
            ca_sha256: "0123456789abcdef".repeat(4),
            registries: Vec::new(),
        }
    }

    /// A browser does not trust the CA before its machine has joined.
    #[test]
    fn the_link_leads_to_a_page_that_a_browser_opens() {
        for (http, https, link) in [
            (Some(80), Some(443), Some("http://docker-registry.local/registry/")),
            (Some(5000), Some(5443), Some("http://docker-registry.local:5000/registry/")),
            (Some(5000), None, Some("http://docker-registry.local:5000/registry/")),
            (None, Some(5443), Some("https://docker-registry.local:5443/registry/")),
            (None, None, None),
        ] {
            let target = target(http, https);
            let facts = Facts::new(3128, &target.ca_sha256);
            let page = page(&View { target: &target, host: None, addresses: Vec::new(), facts: &facts });
            let found = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
            let found: Vec<&str> = found.filter(|link| link.ends_with("/registry/")).collect();
            assert_eq!(found, link.into_iter().collect::<Vec<_>>(), "{http:?} {https:?}");
            let warns = page.contains("for a browser that trusts the CA");
            assert_eq!(warns, link.is_some_and(|link| link.starts_with("https")), "{http:?} {https:?}");
        }
    }

    #[test]
    fn the_page_has_what_a_person_compares_and_copies() {
        let target = target(Some(80), None);
        let addresses = vec!["192.168.1.5".to_owned(), "fd00::5".to_owned()];
        let host = Some("docker-registry-2.local".to_owned());
        let facts = Facts { own_key: Some("sha256//AAAA".to_owned()), ..Facts::new(3128, &target.ca_sha256) };
        let page = page(&View { target: &target, host, addresses, facts: &facts });
        for part in [
            "docker-registry-2.local",
            "192.168.1.5<br>fd00::5",
            "<code>0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef</code>",
            "curl -k --pinnedpubkey sha256//AAAA https://docker-registry.local:3128/setup/docker | sudo sh",
            "<code>http://docker-registry.local</code>",
            "href=\"http://docker-registry.local/registry/\"",
            "<svg",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert!(!page.contains("<script"), "plain");
        let code = terminal_code(&link(&target.proxy_url(), &target.ca_sha256));
        assert!(code.lines().count() > 10 && code.contains('█'), "{code}");
    }
}
