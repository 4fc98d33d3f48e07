mod hostile;
mod net;
mod network;
