"""What training reads: samples in plain tar shards, an index, an order of batches, batches."""
