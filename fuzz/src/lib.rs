//! What the fuzz targets share.
//!
//! The text form of workflows and the API's bodies live in the node's package, which links the engine. Neither needs it,
//! so both are compiled here from their own files: the targets build in minutes and run the very code of the product.

pub mod form;
pub mod keys;
pub mod mutate;
pub mod world;

#[path = "../../node/src"]
mod product {
    pub mod workflow_text;
    pub mod api {
        pub mod dto;
        pub mod reach;
    }
}

pub use product::api;
pub use product::workflow_text;
