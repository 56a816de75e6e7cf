"""Files that survive kills, full disks and other writers: read, write, lock, seal."""
