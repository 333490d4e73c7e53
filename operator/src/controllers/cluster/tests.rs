mod driver;
mod steps;
mod table;
mod world;
