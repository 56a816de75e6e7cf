"""Other runtimes of the same model, measured beside ours (`fewer bench --peers`)."""
