"""What a script that torch runs is made of: each module here is written into it as it stands."""
