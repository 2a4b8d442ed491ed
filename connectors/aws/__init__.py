"""AWS as a target: EBS snapshots written block by block, images, machines."""
