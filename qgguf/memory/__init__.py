"""Memory use, estimated before anything is loaded."""
