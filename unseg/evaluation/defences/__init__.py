"""Defences: what people who train on protected images may do against the noise. `defence_names` lists them all."""
