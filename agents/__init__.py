"""The roles of the pipeline and the runtime they stand on."""
