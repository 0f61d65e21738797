//! Tests of the folder as a whole: archives in, trees and archives out. They run as any user.

mod crash;
mod create;
mod load;
mod remove;
mod unpack;
