//! The typed form: the sections of `entrepot.toml` as serde reads them, each value with its place.
//!
//! The environment and the flags write into the same types afterwards, so `Raw` holds the value of the layer that won.
//! `resolver` makes the ready form of it. `Shape` describes the same types to `schema`, which finds unknown keys and
//! wrong kinds of values first and explains them better than a deserializer can.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_spanned::Spanned;

use super::provenance::{Given, Place};
use super::schema::{Kind, Shape};
use entrepot_core::secret::Secret;

/// Text, numbers with units included; empty means "not set".
pub(super) type Text = Option<Given<String>>;
/// A password or another secret.
pub(super) type Hidden = Option<Given<HiddenText>>;
pub(super) type Switch = Option<Given<bool>>;
/// A whole number with a sign, as in TOML, so that a negative one gets an error of ours.
pub(super) type Number = Option<Given<i64>>;
pub(super) type Texts = Option<Given<Vec<Given<String>>>>;
pub(super) type Numbers = Option<Given<Vec<Given<i64>>>>;

/// Declares a section once, for serde and for the schema.
macro_rules! section {
    ($(#[doc = $doc:literal])* $name:ident { $($key:ident: $kind:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name { $(pub(super) $key: $kind,)* }

        impl Shape for $name {
            const KIND: Kind = Kind::Table(&[$((stringify!($key), <$kind as Shape>::KIND)),*]);
        }
    };
}

section! {
    /// The whole file.
    Raw {
        data_dir: Text,
        proxy: RawProxy,
        transparent: RawTransparent,
        admin: RawAdmin,
        ca: RawCa,
        cache: RawCache,
        // It comes after `cache`: the suggestion for a misplaced `max_size` names the first section that has it.
        registry: RawRegistryDoor,
        rights: RawRights,
        intercept: RawIntercept,
        credentials: Vec<Given<RawAccount>>,
        registries: Named<RawRegistry>,
        upstream: RawUpstream,
        client: RawClient,
        data_plane: RawDataPlane,
        redirect: RawRedirect,
        mdns: RawMdns,
        logging: RawLogging,
    }
}

section! {
    /// `[proxy]`
    RawProxy {
        listen: Texts,
        tunnel: Text,
        tunnel_ports: Numbers,
        allow: Texts,
        max_connections: Number,
        max_connections_per_client: Number,
        allow_push: Switch,
        drain_timeout: Text,
    }
}

section! {
    /// `[transparent]`
    RawTransparent { listen: Texts, proxy_protocol_from: Texts, }
}

section! {
    /// `[registry]`
    RawRegistryDoor {
        hostname: Text,
        names: Texts,
        http: Texts,
        https: Texts,
        plain_on_https: Switch,
        url: Text,
        forwarded_from: Texts,
        mirror_listen: Texts,
        docker_hub_mirror: Switch,
        max_uploads: Number,
        max_uploads_per_client: Number,
        upload_expiry: Text,
        empty_upload_expiry: Text,
        grace: Text,
        gc_interval: Text,
        untagged: Text,
        anonymous: Text,
        htpasswd: Text,
        auth: Text,
        token_lifetime: Text,
        rules: Vec<Given<RawRule>>,
        read_only: Switch,
        immutable_tags: Texts,
        max_size: Text,
        quotas: Vec<Given<RawQuota>>,
        notifications: Vec<Given<RawNotification>>,
    }
}

section! {
    /// `[[registry.rules]]`
    RawRule { repository: Text, users: Texts, actions: Texts, }
}

section! {
    /// `[[registry.quotas]]`
    RawQuota { repository: Text, max_size: Text, }
}

section! {
    /// `[[registry.notifications]]`
    RawNotification { url: Hidden, headers: Named<Given<HiddenText>>, timeout: Text, retry_for: Text, queue: Number, }
}

section! {
    /// `[admin]`
    RawAdmin { listen: Text, socket: Text, token_file: Text, loopback_changes: Switch, }
}

section! {
    /// `[ca]`
    RawCa { cert: Text, key: Text, passphrase_file: Text, leaf_lifetime: Text, }
}

section! {
    /// `[cache]`
    RawCache {
        enabled: Switch,
        max_size: Text,
        min_free: Text,
        inactive: Text,
        scrub: Text,
        patterns: Texts,
        complete_up_to: Text,
        tags: RawTags,
    }
}

section! {
    /// `[cache.tags]`
    RawTags {
        mode: Text,
        primary: RawTier,
        secondary: RawTier,
        default_time: Text,
        revalidate_interval: Text,
        negative_time: Text,
    }
}

section! {
    /// `primary` and `secondary` of `[cache.tags]`
    RawTier { regex: Text, time: Text, }
}

section! {
    /// `[rights]`
    RawRights { public_for: Text, offline_for: Text, }
}

section! {
    /// `[intercept]`
    RawIntercept { registries: Texts, }
}

section! {
    /// `[[credentials]]`
    RawAccount {
        registry: Text,
        repository: Text,
        username: Text,
        password: Hidden,
        password_file: Text,
        push: Switch,
    }
}

section! {
    /// `[registries."HOST"]`
    RawRegistry {
        scheme: Text,
        ca_file: Text,
        verify: Switch,
        access: Text,
        realm: Text,
        headers: Named<Given<HiddenText>>,
        methods: Texts,
    }
}

section! {
    /// `[upstream]`
    RawUpstream {
        proxy: Hidden,
        no_proxy: Texts,
        extra_ca: Text,
        verify: Switch,
        connect_timeout: Text,
        check_connect_timeout: Text,
        check_timeout: Text,
        read_timeout: Text,
        send_timeout: Text,
        tunnel_idle_timeout: Text,
        tunnel_connect_timeout: Text,
        ipv6: Switch,
        allow_addresses: Texts,
    }
}

section! {
    /// `[client]`
    RawClient { header_timeout: Text, body_timeout: Text, send_timeout: Text, keepalive_timeout: Text, }
}

section! {
    /// `[data_plane]`
    RawDataPlane {
        workers: Number,
        disk_threads: Number,
        disk_timeout: Text,
        disk_buffers: Text,
        io_uring: Text,
        ktls: Text,
    }
}

section! {
    /// `[redirect]`
    RawRedirect {
        appliance: Text,
        ports: Numbers,
        prefixes: Texts,
        resolvers: Texts,
        cgroups: Texts,
        exempt_cgroups: Texts,
        interfaces: Texts,
        seed_interval: Text,
        enforce: Switch,
        socket: Text,
        listen: Text,
    }
}

section! {
    /// `[mdns]`
    RawMdns { enabled: Switch, hostname: Text, interfaces: Texts, }
}

section! {
    /// `[logging]`
    RawLogging { level: Text, format: Text, file: Text, }
}

/// Text that is a secret, or may hold one.
#[derive(Clone, serde::Deserialize)]
#[serde(from = "String")]
pub(super) struct HiddenText(pub(super) Secret);

impl From<String> for HiddenText {
    fn from(text: String) -> Self {
        Self(Secret::new(text))
    }
}

/// A table whose keys the administrator chooses, in the order of the file.
pub(super) struct Named<T>(pub(super) Vec<(Given<String>, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        let place = Place::File(spanned.span().start);
        Ok(Self::new(spanned.into_inner(), place))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Vec<(Given<String>, T)>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        let mut entries = deserializer.deserialize_map(Entries(PhantomData))?;
        entries.sort_by_key(|(name, _): &(Given<String>, T)| match name.place {
            Place::File(offset) => offset,
            Place::Environment(_) | Place::Flag(_) => 0,
        });
        Ok(Self(entries))
    }
}
