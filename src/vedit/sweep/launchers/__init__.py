"""What starts the runs of a sweep: processes of this machine, or a cluster's queue."""
