//! The engine as the core sees it, with real worker processes.

mod behaviour;
mod hostile;
mod rig;
mod services;
