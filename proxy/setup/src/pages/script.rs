//! The shell script of `/setup/systemd`.
//!
//! Contract, kept from docker-registry-proxy: users pipe the script through `sed
//! s/docker\.service/containerd\.service/g` (the shell removes the backslash, so the dot matches any character) and
//! `sed '/Environment/ s/$/ "NO_PROXY=…"/'` into bash. Therefore exactly one line has the word "Environment", that line
//! ends in `"`, and the name of the unit stands only where it is meant. The tests in `script_runs` run the script
//! through both.

use entrepot_core::host::RegistryHost;

/// The script for a client that reaches this proxy as `host`. It pins the CA's fingerprint (lower-case hex).
pub(super) fn systemd(host: &RegistryHost, fingerprint: &str) -> String {
    // Both texts stand in double quotes: a RegistryHost has only letters, digits and `.-_:[]`, a fingerprint hex
    // digits. No host has port 0, so the text always has the port.
    TEMPLATE.replace("@PROXY@", &host.authority(0)).replace("@FINGERPRINT@", fingerprint)
}

/// Everything is in a function, so that a download that is cut short runs nothing. `main` has its own standard input,
/// so that no command reads the rest of a script that is piped into the shell.
///
/// If the CA cannot be trusted, the drop-in is removed again: without trust every pull would fail.
const TEMPLATE: &str = r##"#!/bin/sh
# Makes this machine's container engine pull through the caching proxy http://@PROXY@/
set -e

proxy="http://@PROXY@/"
fingerprint="@FINGERPRINT@"

# Reads PEM, and prints the first certificate in it as base64 on one line.
first_certificate() {
    sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p' | sed '/END CERTIFICATE/q' | sed '/-----/d' |
        tr -cd 'A-Za-z0-9+/=' | base64 -d | base64 | tr -d '\n'
}

# Fetches the CA certificate into the file, and refuses any other than the one this script was made for. The file has
# what the fingerprint was made of, and nothing else of what was served.
fetch_ca() {
    page=$(curl -fgsS --noproxy '*' "${proxy}ca.crt")
    certificate=$(printf '%s\n' "$page" | first_certificate)
    found=$(printf '%s' "$certificate" | base64 -d | sha256sum | cut -d ' ' -f 1)
    if [ "$found" != "$fingerprint" ]; then
        echo "The certificate at ${proxy}ca.crt does not have the fingerprint $fingerprint" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$1")"
    {
        echo "-----BEGIN CERTIFICATE-----"
        printf '%s' "$certificate" | fold -w 64
        echo
        echo "-----END CERTIFICATE-----"
    } >"$1.new"
    mv -f "$1.new" "$1"
}

trust_ca() {
    if [ -f /etc/ca-certificates.conf ] && command -v update-ca-certificates >/dev/null; then
        # Debian, Ubuntu, Alpine
        fetch_ca /usr/share/ca-certificates/docker_registry_proxy.crt
        if grep -qxF docker_registry_proxy.crt /etc/ca-certificates.conf; then
            echo "certificate refreshed"
        else
            # The last line may lack its newline.
            [ -z "$(tail -c 1 /etc/ca-certificates.conf)" ] || echo >>/etc/ca-certificates.conf
            echo docker_registry_proxy.crt >>/etc/ca-certificates.conf
        fi
        update-ca-certificates --fresh
    elif [ -d /etc/pki/trust/anchors ] && command -v update-ca-certificates >/dev/null; then
        # SUSE
        fetch_ca /etc/pki/trust/anchors/docker_registry_proxy.crt
        update-ca-certificates --fresh
    elif [ -d /etc/pki/ca-trust/source/anchors ] && command -v update-ca-trust >/dev/null; then
        # Fedora and Enterprise Linux
        fetch_ca /etc/pki/ca-trust/source/anchors/docker_registry_proxy.crt
        update-ca-trust extract
    elif command -v trust >/dev/null; then
        # Arch
        fetch_ca /etc/ca-certificates/docker_registry_proxy.crt
        trust anchor --store /etc/ca-certificates/docker_registry_proxy.crt
    else
        echo "No known trust store; install ca-certificates and run this again" >&2
        exit 1
    fi
}

main() {
    if [ ! -d /etc/systemd ]; then
        echo "Not a systemd system"
        exit 1
    fi

    mkdir -p /etc/systemd/system/docker.service.d
    trap 'rm -f /etc/systemd/system/docker.service.d/http-proxy.conf' EXIT
    cat >/etc/systemd/system/docker.service.d/http-proxy.conf <<EOD
[Service]
Environment="HTTPS_PROXY=http://@PROXY@/"
EOD
    trust_ca
    trap - EXIT

    systemctl daemon-reload
    systemctl restart docker.service
    echo "Configured to pull through $proxy (CA fingerprint, SHA-256: $fingerprint)"
}

main </dev/null
"##;

#[cfg(test)]
mod tests {
    use super::*;

    fn script(host: &str) -> String {
        systemd(&RegistryHost::parse(host, 80).expect("a host"), "abcdef")
    }

    #[test]
    fn keeps_what_the_sed_lines_rely_on() {
        let script = script("192.168.66.72:3128");
        let marked: Vec<&str> = script.lines().filter(|line| line.contains("Environment")).collect();
        assert_eq!(marked, [r#"Environment="HTTPS_PROXY=http://192.168.66.72:3128/""#]);
        let units: Vec<&str> = script.lines().map(str::trim).filter(|line| line.contains("docker.service")).collect();
        assert!(units.contains(&"mkdir -p /etc/systemd/system/docker.service.d"), "{units:?}");
        assert!(units.contains(&"systemctl restart docker.service"), "{units:?}");
        let loose = regex::Regex::new("docker.service").expect("a regex");
        assert_eq!(loose.find_iter(&script).count(), script.matches("docker.service").count(), "sed sees no more");
        assert!(!script.contains('@'), "every placeholder is filled");
    }

    #[test]
    fn the_host_is_as_the_client_wrote_it_with_a_port() {
        for (host, written) in [
            ("proxy.lan:3128", "http://proxy.lan:3128/"),
            ("PROXY.lan", "http://proxy.lan:80/"),
            ("[::1]:3128", "http://[::1]:3128/"),
        ] {
            assert!(script(host).contains(&format!("Environment=\"HTTPS_PROXY={written}\"\n")), "{host}");
        }
    }
}
