"""The report as one HTML file and as pictures: one symbol's series computed again, thinned out, drawn, and laid out.

recomputing -> one pass over the prices: what is drawn of one symbol and set
sampling, histogram -> how long series become short ones, in bounded memory
charts, pictures -> drawn by Bokeh, by matplotlib
tables, page -> the figures, heat maps and the HTML around it all
"""
