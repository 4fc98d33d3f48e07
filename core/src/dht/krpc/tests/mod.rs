mod hostile;
mod net;
mod network;
mod private;
mod promises;
mod young;
