//! Black-box tests: real processes on loopback and in network namespaces of their own, corpora, and the rules that
//! the workspace itself has to keep. One binary, so that everything is linked once.

mod agent;
mod cluster;
mod config;
mod differential;
mod discovery;
mod hostile;
mod layering;
mod limits;
mod local;
mod net;
mod own_metrics;
mod pages;
mod process;
mod proxy;
mod pushing;
mod sending;
mod tool;
mod tool_tsdb;
mod ui;
mod wire;
mod writes;
mod yaml;
