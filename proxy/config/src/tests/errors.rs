//! Every kind of mistake, and the exact line that an administrator reads.

use proptest::prelude::*;

use super::super::parse;
use super::super::provenance::Source;
use super::Case;

/// The text of `entrepot.toml`, and the line of the error. `$DIR` is the case's directory in both.
#[rustfmt::skip]
const IN_FILE: &[(&str, &str)] = &[
    // Shape.
    ("[cache]\nmax_sise = \"1g\"\n", "entrepot.toml:2: unknown key \"max_sise\" in [cache]; did you mean \"max_size\"?"),
    ("max_size = \"1g\"\n", "entrepot.toml:1: unknown key \"max_size\" at the top level; did you mean \"max_size\" in [cache]?"),
    ("\n[chache]\n", "entrepot.toml:2: unknown key \"chache\" at the top level; did you mean \"cache\"?"),
    ("[ca]\ncolour = 1\n", "entrepot.toml:2: unknown key \"colour\" in [ca]; known there: cert, key, passphrase_file, leaf_lifetime"),
    ("[transparent]\nproxy_protocol_from = [\"ten\"]\n", "entrepot.toml:2: transparent.proxy_protocol_from: \"ten\" is not an \
     address or a network; write for example 10.0.0.0/8 or ::1"),
    ("[redirect]\ninterfaces = [\"a/b\"]\n", "entrepot.toml:2: redirect.interfaces: \"a/b\" is no name of an interface"),
    ("[registry]\nhostname = \"a/b\"\n", "entrepot.toml:2: registry.hostname: \"a/b\" is not a host name; without a port"),
    ("[cache.tags]\nprimary = { regexp = \"a\" }\n",
        "entrepot.toml:2: unknown key \"regexp\" in [cache.tags.primary]; did you mean \"regex\"?"),
    ("[[credentials]]\nregistry = \"a.io\"\nuser = \"u\"\n",
        "entrepot.toml:3: unknown key \"user\" in [credentials]; known there: registry, repository, username, password, password_file, push"),
    ("[registries.\"a.io\"]\nverfy = false\n",
        "entrepot.toml:2: unknown key \"verfy\" in [registries.\"a.io\"]; did you mean \"verify\"?"),
    ("[cache]\nmax_size = 5\n", "entrepot.toml:2: cache.max_size must be a text in quotes"),
    ("[cache]\nenabled = \"yes\"\n", "entrepot.toml:2: cache.enabled must be true or false"),
    ("[proxy]\nlisten = \"[::]:1\"\n", "entrepot.toml:2: proxy.listen must be a list of texts in quotes"),
    ("[proxy]\ntunnel_ports = \"443\"\n", "entrepot.toml:2: proxy.tunnel_ports must be a list of whole numbers"),
    ("[proxy]\nlisten = [\n  1\n]\n", "entrepot.toml:3: proxy.listen must be a text in quotes"),
    ("cache = 1\n", "entrepot.toml:1: cache must be a table"),
    ("[credentials]\n", "entrepot.toml:1: credentials must be a list of tables, each headed by its name in double brackets"),
    ("[[credentials]]\npassword = 12345\n", "entrepot.toml:2: credentials.password must be a text in quotes"),
    ("[cache]\n[cache]\n", "entrepot.toml:2: duplicate key"),
    ("cache:\n  max_size: 32g\n", "entrepot.toml:1: key with no value, expected `=`; this looks like YAML; the configuration is TOML: \
        a [section] in brackets, then lines as in key = \"value\""),
    ("[intercept]\nregistries = [\"a.io, b.io\"]\n", "entrepot.toml:2: intercept.registries: \"a.io, b.io\" is no usable registry: \
        not a host name or address; write each registry as an entry of its own: [\"a.example\", \"b.example\"]"),
    ("[proxy]\nallow = [\"a.io, b.io\"]\n", "entrepot.toml:2: proxy.allow: \"a.io, b.io\" is not a host or a glob of hosts; write each \
        host as an entry of its own: [\"ghcr.io\", \"*.docker.io\"]"),
    ("a = \n", "entrepot.toml:1: string values must be quoted, expected literal string"),
    // Values.
    ("[cache]\nmax_size = \"32x\"\n",
        "entrepot.toml:2: cache.max_size: \"32x\" is not a size; write for example 512m, 32g or 1t"),
    ("[cache]\nmax_size = \"0\"\n", "entrepot.toml:2: cache.max_size: \"0\" must be more than 0"),
    ("[cache]\ninactive = \"1 fortnight\"\n", "entrepot.toml:2: cache.inactive: \"1 fortnight\" is not a duration; \
        write for example 500ms, 60s, 10m, 1h30m or 60d"),
    ("[upstream]\nread_timeout = \"0\"\n", "entrepot.toml:2: upstream.read_timeout: \"0\" must be more than 0"),
    ("[cache]\npatterns = [\"a\",\n\"(\"]\n",
        "entrepot.toml:3: cache.patterns: \"(\" is not a regular expression: unclosed group"),
    ("[cache.tags.primary]\nregex = '(?=a)'\n", "entrepot.toml:2: cache.tags.primary.regex: \"(?=a)\" is not a regular \
        expression: look-around, including look-ahead and look-behind, is not supported"),
    ("[cache.tags]\nnegative_time = \"11s\"\n", "entrepot.toml:2: cache.tags.negative_time: \"11s\" is more than 10s"),
    ("[data_plane]\ndisk_threads = 0\n", "entrepot.toml:2: data_plane.disk_threads: 0 is not between 1 and 64"),
    ("[data_plane]\ndisk_timeout = \"0s\"\n", "entrepot.toml:2: data_plane.disk_timeout: \"0s\" must be more than 0"),
    ("[data_plane]\ndisk_buffers = \"64k\"\n", "entrepot.toml:2: data_plane.disk_buffers: \"64k\" is less than 1m"),
    ("[data_plane]\nktls = \"on\"\n", "entrepot.toml:2: data_plane.ktls: \"on\" is not one of auto, off"),
    ("[data_plane]\nio_uring = \"on\"\n", "entrepot.toml:2: data_plane.io_uring: \"on\" is not one of auto, off"),
    ("[mdns]\nname = \"a\"\n", "entrepot.toml:2: unknown key \"name\" in [mdns]; known there: enabled, hostname, interfaces"),
    ("[mdns]\nhostname = \"a.b\"\n", "entrepot.toml:2: mdns.hostname: \"a.b\" is not a host name under .local; \
        write one word of letters, digits and hyphens, for example docker-registry"),
    ("[mdns]\ninterfaces = [\"eth0\",\n\"a/b\"]\n", "entrepot.toml:3: mdns.interfaces: \"a/b\" is not the name of an \
        interface; `ip link` shows them, for example eth0"),
    ("[cache.tags]\nmode = \"never\"\n", "entrepot.toml:2: cache.tags.mode: \"never\" is not one of revalidate, ttl"),
    ("[proxy]\ntunnel = \"some\"\n", "entrepot.toml:2: proxy.tunnel: \"some\" is not one of any, registries, none"),
    ("[proxy]\nlisten = [\"3128\"]\n", "entrepot.toml:2: proxy.listen: \"3128\" is not an address with a port; \
        write for example 0.0.0.0:3128, [::]:3128 or 127.0.0.1:3130"),
    ("[proxy]\nlisten = []\n", "entrepot.toml:2: proxy.listen: the list is empty; write for example [\"[::]:3128\"]"),
    ("[proxy]\nmax_connections = 0\n", "entrepot.toml:2: proxy.max_connections: 0 is not between 1 and 1000000"),
    ("[proxy]\ntunnel_ports = [443, 70000]\n", "entrepot.toml:2: proxy.tunnel_ports: 70000 is not between 1 and 65535"),
    ("[proxy]\nallow = [\"https://ghcr.io\"]\n", "entrepot.toml:2: proxy.allow: \"https://ghcr.io\" is not a host or a glob \
        of hosts; write for example ghcr.io, *.docker.io or reg.example:5000"),
    ("[proxy]\nallow = [\"{a\"]\n", "entrepot.toml:2: proxy.allow: \"{a\" is not a glob: unclosed alternate group; missing '}' \
        (maybe escape '{' with '[{]'?)"),
    ("[ca]\nleaf_lifetime = \"8d\"\n", "entrepot.toml:2: ca.leaf_lifetime: \"8d\" is more than 7d"),
    ("[ca]\nleaf_lifetime = \"1s\"\n", "entrepot.toml:2: ca.leaf_lifetime: \"1s\" is less than 1h"),
    ("[logging]\nlevel = \"inof\"\n", "entrepot.toml:2: logging.level: \"inof\" is not a log level; \
        write error, warn, info, debug or trace, or a filter such as info,entrepot=debug"),
    ("[upstream]\nallow_addresses = [\"lo\"]\n", "entrepot.toml:2: upstream.allow_addresses: \"lo\" is not an address or a \
        network; write for example 10.0.0.0/8 or ::1"),
    ("[upstream]\nproxy = \"https://u:canary@proxy:1\"\n", "entrepot.toml:2: upstream.proxy: a parent proxy is not reached by \
        https://; write http://host:port; what passes through it is encrypted anyway"),
    ("[upstream]\nproxy = \"http://u:can ary@pro xy\"\n", "entrepot.toml:2: upstream.proxy: the parent proxy's address is \
        unusable; write http://[user:password@]host:port"),
    ("[upstream]\nno_proxy = [\"10.*\"]\n", "entrepot.toml:2: upstream.no_proxy: \"10.*\" is no usable registry: not a host \
        name or address; write for example reg.example, reg.example:5000 or *.pkg.dev"),
    // Registries and accounts.
    ("[intercept]\nregistries = [\n \"a.io\",\n \"b/c\",\n]\n", "entrepot.toml:4: intercept.registries: \"b/c\" is no usable \
        registry: not a host name or address; write the host alone, without a path; http:// before it means plain HTTP"),
    ("[intercept]\nregistries = [\"a.io:x\"]\n", "entrepot.toml:2: intercept.registries: \"a.io:x\" is no usable registry: \
        not a port number; write for example reg.example, reg.example:5000, *.pkg.dev or http://reg.example:5000"),
    ("[intercept]\nregistries = [\n \"a.io\",\n \"A.IO:443\",\n]\n",
        "entrepot.toml:4: intercept.registries: duplicate registry \"a.io:443\"; line 3 has it already"),
    ("[registries.\"z.io\"]\n[registries.\"Z.io\"]\n",
        "entrepot.toml:2: registries: duplicate registry \"z.io\"; line 1 has it already"),
    ("[registries.\"a b\"]\n", "entrepot.toml:1: registries: \"a b\" is no usable registry: not a host name or address; \
        write for example reg.example, reg.example:5000 or *.pkg.dev"),
    ("[registries.\"a.io\"]\nscheme = \"ftp\"\n",
        "entrepot.toml:2: registries.\"a.io\".scheme: \"ftp\" is not one of http, https"),
    ("[registries.\"a.io\"]\nrealm = \"a b\"\n", "entrepot.toml:2: registries.\"a.io\".realm: \"a b\" is no usable host: \
        not a host name or address; write for example auth.example"),
    ("[registries.\"a.io\".headers]\nHost = \"b\"\n", "entrepot.toml:2: registries.\"a.io\".headers: \"Host\" cannot be \
        injected; entrepot sets this header itself"),
    ("[registries.\"a.io\".headers]\n\"a b\" = \"c\"\n",
        "entrepot.toml:2: registries.\"a.io\".headers: \"a b\" is not a header's name"),
    ("[registries.\"a.io\".headers]\nX-Key = \"can\\nary\"\n", "entrepot.toml:2: registries.\"a.io\".headers: the value of \
        x-key has characters that no header may have"),
    ("\n[[credentials]]\nusername = \"u\"\npassword = \"canary\"\n", "entrepot.toml:2: credentials: the entry has no registry; \
        it needs registry, username, and password or password_file"),
    ("[[credentials]]\nregistry = \"a.io\"\nusername = \"u\"\n", "entrepot.toml:1: credentials: the entry has no password; \
        it needs registry, username, and password or password_file"),
    ("[[credentials]]\nregistry = \"a.io\"\nusername = \"u\"\npassword = \"canary\"\npassword_file = \"f\"\n",
        "entrepot.toml:5: credentials: give either password or password_file"),
    ("[[credentials]]\nregistry = \"a.io\"\nusername = \"u:v\"\npassword = \"canary\"\n",
        "entrepot.toml:3: credentials.1.username: \"u:v\" has a colon"),
    // Files.
    ("[[credentials]]\nregistry = \"a.io\"\nusername = \"u\"\npassword_file = \"$DIR/none\"\n",
        "entrepot.toml:4: credentials.1.password_file: \"none\" cannot be read: no such file or directory; \
        check the path and who may read it"),
    ("[admin]\ntoken_file = \"$DIR/empty\"\n",
        "entrepot.toml:2: admin.token_file: \"empty\" is empty; write the secret into it, on one line"),
    ("[upstream]\nextra_ca = \"$DIR/none\"\n", "entrepot.toml:2: upstream.extra_ca: \"none\" cannot be read: no such file or \
        directory; check the path and who may read it"),
    ("[registries.\"a.io\"]\nca_file = \"$DIR/empty\"\n", "entrepot.toml:2: registries.\"a.io\".ca_file: \"empty\" holds no \
        certificate; give a PEM file of CA certificates"),
    ("[upstream]\nextra_ca = \"$DIR/rubbish\"\n", "entrepot.toml:2: upstream.extra_ca: \"rubbish\" holds a certificate that is \
        not usable: invalid peer certificate: BadEncoding; give a PEM file of CA certificates"),
    ("[ca]\ncert = \"$DIR/none\"\nkey = \"$DIR/none\"\n",
        "entrepot.toml:2: ca.cert: \"none\" cannot be read: no such file or directory; check the path and who may read it"),
    ("[ca]\ncert = \"$DIR/good.crt\"\nkey = \"$DIR/good.crt\"\n",
        "entrepot.toml:3: ca.key: \"good.crt\" holds no private key; give a PEM file, PKCS#1, PKCS#8 or SEC1"),
];

/// The variable, its value, and the line of the error.
#[rustfmt::skip]
const IN_ENVIRONMENT: &[(&str, &str, &str)] = &[
    ("ALLOW_PUSH", "maybe", "environment variable ALLOW_PUSH: \"maybe\" is neither true nor false"),
    ("DISABLE_IPV6", "2", "environment variable DISABLE_IPV6: \"2\" is neither true nor false"),
    ("CACHE_MAX_SIZE", "lots", "environment variable CACHE_MAX_SIZE: \"lots\" is not a size; write for example 512m, 32g or 1t"),
    ("MANIFEST_CACHE_PRIMARY_REGEX", "(", "environment variable MANIFEST_CACHE_PRIMARY_REGEX: \"(\" is not a regular expression: \
        unclosed group"),
    ("PROXY_CONNECT_READ_TIMEOUT", "soon", "environment variable PROXY_CONNECT_READ_TIMEOUT: \"soon\" is not a duration; \
        write for example 500ms, 60s, 10m, 1h30m or 60d"),
    ("REGISTRIES", "a.io,b.io", "environment variable REGISTRIES: \"a.io,b.io\" has a ',' in it; spaces separate the registries: \
        \"a.io b.io\""),
    ("ADDITIONAL_REGISTRIES", "a.io; b.io", "environment variable ADDITIONAL_REGISTRIES: \"a.io; b.io\" has a ';' in it; spaces \
        separate the registries: \"a.io b.io\""),
    ("REGISTRIES", "'a.io b.io'", "environment variable REGISTRIES: \"'a.io b.io'\" has a '\\'' in it; spaces separate the \
        registries: \"a.io b.io\""),
    ("REGISTRY_WHITELIST", "a.io b.io,c.io", "environment variable REGISTRY_WHITELIST: \"a.io b.io\" is not one host; commas \
        separate the hosts"),
    ("REGISTRIES", "a.io http://b.io/v2", "environment variable REGISTRIES: \"http://b.io/v2\" is no usable registry: not a host name or \
        address; write the host alone, without a path; http:// before it means plain HTTP"),
    ("AUTH_REGISTRIES", "a.io:u:canary b.io:canary", "environment variable AUTH_REGISTRIES: entry 2 is not of the form \
        host:user:password; the delimiters are AUTH_REGISTRIES_DELIMITER and AUTH_REGISTRY_DELIMITER"),
    ("AUTH_REGISTRIES_FILE", "$DIR/none", "environment variable AUTH_REGISTRIES_FILE: \"none\" cannot be read: no such file or \
        directory; check the path and who may read it"),
    ("UPSTREAM_PROXY", "socks5://proxy:1080", "environment variable UPSTREAM_PROXY: a parent proxy is not reached by socks5://; \
        write http://host:port; what passes through it is encrypted anyway"),
    ("CA_KEY_FILE", "$DIR/none", "environment variable CA_KEY_FILE: \"/var/lib/entrepot/ca/ca.crt\" cannot be read: no such file \
        or directory; check the path and who may read it"),
    ("ENTREPOT_CONFIG", "$DIR/none.toml", "none.toml: cannot be read: no such file or directory; it is named by environment \
        variable ENTREPOT_CONFIG"),
];

fn furnished(case: Case) -> Case {
    let pair = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).expect("a certificate");
    case.file("empty", "");
    case.file("rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    case.file("good.crt", &pair.cert.pem());
    case
}

#[test]
fn mistakes_in_the_file() {
    for (text, expected) in IN_FILE {
        let case = furnished(Case::new(""));
        case.file("entrepot.toml", &text.replace("$DIR", &case.directory.path().to_string_lossy()));
        assert_eq!(case.error(), *expected, "{text}");
        assert!(!expected.contains("canary"));
    }
}

#[test]
fn mistakes_in_the_environment() {
    for (name, value, expected) in IN_ENVIRONMENT {
        assert_eq!(furnished(Case::without_file().set(name, value)).error(), *expected, "{name}={value}");
        assert!(!expected.contains("canary"));
    }
}

#[test]
fn a_secret_is_given_once() {
    let case = Case::without_file().set("AUTH_REGISTRIES", "a:b:canary").set("AUTH_REGISTRIES_FILE", "$DIR/x");
    assert_eq!(case.error(), "environment variable AUTH_REGISTRIES_FILE: AUTH_REGISTRIES is set too; set one of them");
}

#[test]
fn a_file_that_the_flag_names_must_exist() {
    let mut case = Case::without_file();
    case.flags.config = Some(case.directory.path().join("none.toml"));
    assert_eq!(case.error(), "none.toml: cannot be read: no such file or directory; it is named by flag --config");
}

proptest! {
    /// Any text is either read, or refused in one line that names the file.
    #[test]
    fn any_text_is_read_or_refused_in_one_line(text in r#"([a-z_]{1,9}|\[|\]|=|"|'|\n|\.|[0-9]|\PC| ){0,60}"#) {
        if let Err(error) = parse(&Source::new("entrepot.toml".into(), text)) {
            let line = error.to_string();
            prop_assert!(line.starts_with("entrepot.toml:") && line.lines().count() == 1, "{line:?}");
        }
    }
}
