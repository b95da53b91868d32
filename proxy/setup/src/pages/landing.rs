//! The appliance's page for people: what it is called, where it is, its CA's fingerprint, and the one line for clients.
//! One HTML text without scripts, pictures or anything fetched.
//!
//! What is put in is escaped (`html`), and parsed before: hosts, addresses, hex digits.

use qrcode::render::{svg, unicode};
use qrcode::{Color, EcLevel, QrCode};

use crate::client::target::Target;
use entrepot_core::route::WEB_PATH;
use entrepot_net::html::Html;

/// What the page tells.
pub(super) struct View<'a> {
    /// As the client that asks reaches it.
    pub(super) target: &'a Target,
    /// The announced name.
    pub(super) host: Option<String>,
    /// Every address of the local network.
    pub(super) addresses: Vec<String>,
    /// The program's version.
    pub(super) version: &'a str,
}

/// The scripts, each with what it is for.
const LINES: [(&str, &str); 4] =
    [("docker", "Docker Engine"), ("containerd", "containerd"), ("podman", "Podman"), ("k3s", "k3s")];

/// A line of the table.
const ROW: &str = "<tr><th>@LABEL@</th><td>@VALUE@</td></tr>\n";
const CODE: &str = "<code>@TEXT@</code>";
const LINE: &str = "<dt>@NAME@<dd><code>curl -fsS @PROXY@setup/@RUNTIME@ | sudo sh</code>\n";
const REGISTRY: &str = "<code>@URL@</code><br><a href=\"@URL@@PATH@\">what is in it</a>";

/// The page.
pub(super) fn html(view: &View<'_>) -> String {
    let (proxy, fingerprint) = (view.target.proxy_url(), spaced(&view.target.ca_sha256));
    let row = |label, value| Html::fill(ROW, &[("LABEL", Html::text(label)), ("VALUE", value)]);
    let code = |text: &str| Html::fill(CODE, &[("TEXT", Html::text(text))]);
    let between = |number| if number == 0 { Html::default() } else { Html::literal("<br>") };
    let addresses = view.addresses.iter().enumerate();
    let registry = view.target.mirror().ok().map(|mirror| {
        let (url, path) = (Html::text(&mirror.url()), Html::text(WEB_PATH));
        row("registry", Html::fill(REGISTRY, &[("URL", url), ("PATH", path)]))
    });
    let rows = [
        row("name", Html::text(view.host.as_deref().unwrap_or("not announced"))),
        row("addresses", addresses.flat_map(|(number, text)| [between(number), Html::text(text)]).collect()),
        row("proxy", code(&proxy)),
        registry.unwrap_or_default(),
        row("CA, SHA-256", code(&fingerprint)),
        row("version", Html::text(view.version)),
    ];
    let line = |(runtime, name)| {
        let (proxy, name) = (Html::text(&proxy), Html::literal(name));
        Html::fill(LINE, &[("NAME", name), ("PROXY", proxy), ("RUNTIME", Html::literal(runtime))])
    };
    let body = Html::fill(
        PAGE,
        &[
            ("ROWS", rows.into_iter().collect()),
            ("LINES", LINES.into_iter().map(line).collect()),
            ("PROXY", Html::text(&proxy)),
            ("QR", picture(&link(&proxy, &view.target.ca_sha256))),
        ],
    );
    Html::page("entrepot", Html::default(), body).into_string()
}

/// The page's address with the fingerprint in it, so that a phone that reads the console's code can compare the two.
pub fn link(proxy_url: &str, ca_sha256: &str) -> String {
    format!("{proxy_url}?sha256={ca_sha256}")
}

/// A QR code for a terminal with light letters on dark; empty where the text does not fit.
pub fn terminal_code(text: &str) -> String {
    let render = |code: QrCode| {
        code.render::<unicode::Dense1x2>()
            .dark_color(unicode::Dense1x2::Light)
            .light_color(unicode::Dense1x2::Dark)
            .build()
    };
    QrCode::new(text).map(render).unwrap_or_default()
}

/// The same as small as it can be, for a screen of 25 rows: light blocks on dark, with a narrow margin.
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

fn picture(text: &str) -> Html {
    let render = |code: QrCode| code.render::<svg::Color<'_>>().min_dimensions(180, 180).build();
    let svg = QrCode::new(text).map(render).unwrap_or_default();
    Html::picture(svg.find("<svg").map_or_else(String::new, |start| svg[start..].to_owned()))
}

/// Pairs of digits in groups that eyes can compare.
fn spaced(hex: &str) -> String {
    let bytes = hex.as_bytes();
    let groups = bytes.chunks(8).map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(" ")
}

const PAGE: &str = include_str!("landing.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_a_person_compares_and_copies() {
        let target = Target {
            host: "docker-registry.local".to_owned(),
            proxy_port: 3128,
            registry_http_port: Some(80),
            registry_https_port: None,
            ca_pem: String::new(),
            ca_sha256: "0123456789abcdef".repeat(4),
            registries: Vec::new(),
        };
        let addresses = vec!["192.168.1.5".to_owned(), "fd00::5".to_owned()];
        let host = Some("docker-registry-2.local".to_owned());
        let page = html(&View { target: &target, host, addresses, version: "1.2.3" });
        for part in [
            "docker-registry-2.local",
            "192.168.1.5<br>fd00::5",
            "01234567 89abcdef 01234567",
            "curl -fsS http://docker-registry.local:3128/setup/docker | sudo sh",
            "<code>http://docker-registry.local</code>",
            "href=\"http://docker-registry.local/registry/\"",
            "<svg",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert!(!page.replace("@media", "").contains('@') && !page.contains("<script"), "filled, and plain");
        let code = terminal_code(&link(&target.proxy_url(), &target.ca_sha256));
        assert!(code.lines().count() > 10 && code.contains('█'), "{code}");
    }
}
