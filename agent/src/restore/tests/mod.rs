mod damage;
mod exact;
mod forest;
mod hostile;
mod limits;
mod resume;
mod view;
mod world;
