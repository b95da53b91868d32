//! Restarts under a real systemd: no connection is refused and no pull is lost.
