//! The DHT through `mainline`.
