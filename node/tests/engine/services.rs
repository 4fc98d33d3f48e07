//! The bundled services, on odd inputs.
