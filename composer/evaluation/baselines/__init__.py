"""What a mix is compared with beside its seed, its experts and their mean."""
