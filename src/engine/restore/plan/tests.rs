//! Plans without a host.
