"""Weights of the linear scores, fitted on Spider's train pairs (`bench/linking.py --fit`)."""

SAME_SPAN = 0.7
VALUE_BIAS = -4.0
VALUE_WEIGHTS = (2.,2.,1.,1.,.5,-.5,1.,1.,-2.,-1.,-1.,.5,.5,1.5,.5,1.,.5,-.5,-.2,-.5,-2.,-.3,1.,2.,0.)
