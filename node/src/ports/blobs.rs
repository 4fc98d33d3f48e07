//! The content-addressed object store.
