//! Tests of the folder as a whole: archives in, trees and archives out. They run as any user.

mod archives;
mod crash;
mod create;
mod hostile;
mod load;
mod remove;
mod save;
mod small;
mod unpack;
