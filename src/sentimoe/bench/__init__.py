"""`sentimoe bench`: how fast a model is beside its dense model and beside other tools."""
