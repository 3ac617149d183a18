"""Networks, and the folders that hold them. What can be told of a model without its network needs no torch: ``model_json``."""
