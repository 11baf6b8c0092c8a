"""`multigpu verify`: is a split model the same, bit for bit?"""
